"""A comparison in every form: text, Markdown, HTML with plots, LaTeX, CSV and JSON, all of one mind.

Made from records alone: no GPU, no model, no network. ``finetune.report`` writes them.
"""
