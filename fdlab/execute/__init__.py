"""Strict papermill runs of the notebook suites, the report page, and publishing."""
