"""Streaming, out-of-core randomized solvers for data matrices that do not fit in memory."""

import lazy_loader

from nysstream.version import __version__ as __version__

# Names are loaded at first use: scikit-learn alone takes a second, and workers of a cluster need none of it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
