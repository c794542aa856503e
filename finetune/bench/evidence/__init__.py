"""What a GPU's first minutes decide: ``finetune bench --evidence``, in the order that matters most.

``run`` shares a budget of seconds out to the steps of ``plan``, and starts each as a process of its own
(``worker``), so that a kernel that crashes, hangs or spoils the device's context costs its own figure alone.
After every figure the result so far can be written, as ``evidence.json`` and, by ``page``, ``evidence.md``.

Needs torch and Triton, for whole models transformers, and neither datasets nor pydantic.
"""
