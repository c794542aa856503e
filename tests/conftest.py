"""No test touches the network or the user's caches. Set before torch and Hugging Face are imported.

Marks: ``slow`` is a test of over a second (a run of its own, a browser, a child process that imports torch, a
kernel in Triton's interpreter), ``exhaustive`` a whole matrix of cases. ``make test`` leaves the exhaustive
out, ``make test ARGS="-m 'not slow'"`` both. A test that reads a run takes it from ``trained``.
"""

import gc
import importlib.util
import os
import tempfile
from collections import Counter
from collections.abc import Iterator

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="finetune-tests-")
os.environ["FINETUNE_CACHE"] = tempfile.mkdtemp(prefix="finetune-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ.pop("COLUMNS", None)  # of whoever runs the tests, or of their workers: output is for no terminal
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors: more threads only wait for each other

import hypothesis  # noqa: F401 - by the freezing below it has looked at what refers to its generators
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # triton reads it when it is imported, as transformers' Trainer does
    if importlib.util.find_spec("triton"):
        from tests.support.interpreter import patch_once_a_launch

        patch_once_a_launch()

from tests.support.trained import SharedRuns  # after the environment above


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the selection by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Marks exhaustive tests as slow, too, and begins with the files that hold the most slow tests.

    Each file goes to one worker: a long one that begins last would be waited for alone.
    """
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker("slow")
    yield
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    every = Counter(item.path for item in items)
    items.sort(key=lambda item: (slow[item.path], every[item.path], str(item.path)), reverse=True)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRuns]:
    """Finished runs to read: ``trained("classify", *GRID)`` is the root of one."""
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # all workers share the folder above their own
        home = home.parent
    runs = SharedRuns(home / "trained")
    yield runs
    assert not runs.changed(), "a test changed a run that others read: let it copy the run first"


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later garbage collection.

    A run asks for several, and each would go through half a million objects: more than the training of so few
    rows takes.
    """
    gc.collect()
    gc.freeze()
