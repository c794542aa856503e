"""Markdown, LaTeX, CSV, JSON and text."""
