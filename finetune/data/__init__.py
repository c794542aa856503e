"""Rows of a task, from files, the Hub or the sample -> checked, split and tokenized."""
