"""What a run leaves for its readers: record, predictions, diagnostics and manifest."""
