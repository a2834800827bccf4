"""Markdown tables and HTML pages."""
