"""What a fit did, for people: tables on the terminal, figures, and one self-contained page."""

from nysstream.report.page import write_report
from nysstream.report.tables import plan_table, summary_table

__all__ = ["plan_table", "summary_table", "write_report"]
