"""The report: one self-contained HTML file from a run's or a sweep's documents."""

from overspan.report.documents import RunDocuments, request_curves
from overspan.report.page import render
from overspan.report.sweep_page import SweepDocuments, render_sweep

__all__ = ["RunDocuments", "SweepDocuments", "render", "render_sweep", "request_curves"]
