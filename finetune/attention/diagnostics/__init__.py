"""Measurements of attention while a model trains or predicts."""
