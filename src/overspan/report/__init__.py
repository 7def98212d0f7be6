"""The report: one self-contained HTML file from a run's documents. A sweep's page is in `sweep`."""

from overspan.report.documents import RunDocuments, request_curves
from overspan.report.page import render

__all__ = ["RunDocuments", "render", "request_curves"]
