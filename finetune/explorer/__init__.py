"""Recorded runs -> one offline page, in which they are sorted, drawn and compared down to the test row."""
