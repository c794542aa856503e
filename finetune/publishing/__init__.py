"""A finished run -> a model card, and a repository on the Hub."""
