"""No test leaves a variant behind that it has registered."""

from collections.abc import Iterator

import pytest

from finetune.attention import VARIANTS


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = dict(VARIANTS)
    yield
    VARIANTS.clear()
    VARIANTS.update(before)
