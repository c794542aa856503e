"""Grids of runs: planned, checked, costed, and run in this process or several at a time.

    file (axes) -> grid (cells) -> state -> estimate -> overview
                                         -> preflight -> schedule, through an executor -> training.run

``classify`` and ``translate`` are a grid of one point and run in this process. A study is a YAML file of
many, and each of its cells is a process, ``finetune run`` on a file of its own: what a study does can be
typed by hand, and a run that fails or is killed takes no other with it. Planning imports no torch.
"""
