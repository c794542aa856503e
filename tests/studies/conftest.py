"""What every test of studies needs."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support import slurm


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Tests that are run in the background or under nohup begin with these signals ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def slurm_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    """A Slurm that runs as long as the tests do; see ``slurm_cluster``."""
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(slurm.running(tmp_path_factory.mktemp("slurm") / "cluster"))
        except slurm.CannotStartError as error:
            if slurm.NEEDED in os.environ:
                raise
            pytest.skip(f"no Slurm: {error}")
        yield cluster


@pytest.fixture
def slurm_cluster(
    slurm_of_the_session: slurm.Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[slurm.Cluster]:
    """A Slurm without jobs, which this process's commands speak to; its jobs end with the test."""
    for name, value in slurm_of_the_session.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_of_the_session
    slurm_of_the_session.clear()
