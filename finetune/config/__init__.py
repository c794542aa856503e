"""Presets, files and options -> one checked configuration, and its hash."""
