"""A comparison -> the page, tables and plots that people read."""
