"""Predictions and references -> scores with their signatures."""
