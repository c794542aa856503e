"""Where the runs of a grid are executed: ``base`` is the interface, each other module an engine."""
