"""Studies: a YAML file of grids -> every run of them, planned, costed and run, several at a time.

    file -> grid (cells) -> state -> cost -> overview | schedule (progress)

A cell is one run and one command line of its own, so that what a study does can be typed by hand, and a run
that fails or is killed takes no other with it. Nothing here imports torch.
"""
