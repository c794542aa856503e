"""Speed and memory of the kernels against torch's own, and of training against the stock recipe.

Empty on purpose: ``python -m finetune.bench.resident`` measures memory in a small process of its own, which
must not load what the other modules need. ``run.py`` is where the measurement starts.
"""
