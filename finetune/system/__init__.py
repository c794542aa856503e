"""What the machine gives: files, locks, caches, versions, text for terminals and tables."""
