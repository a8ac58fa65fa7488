"""A report for people and for machines: a table in the terminal, JSON, JUnit XML, one HTML page."""

from conversion.parity.reports.machine import read_json, write_json, write_junit
from conversion.parity.reports.page import write_html
from conversion.parity.reports.terminal import Progress, table

__all__ = ["Progress", "read_json", "table", "write_html", "write_json", "write_junit"]
