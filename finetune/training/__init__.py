"""A configuration -> a trained model and its record, by transformers' Trainer."""
