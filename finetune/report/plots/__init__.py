"""The plots, as SVG."""
