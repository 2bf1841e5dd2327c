"""Run the command line: ``python -m nysstream``."""

from nysstream.cli.main import main

main()
