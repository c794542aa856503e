"""What the attention functions need: torch, Triton and transformers, and no more of what a run needs."""

import subprocess
import sys

import pytest

ABSENT = ("accelerate", "datasets", "evaluate", "jsonargparse", "pydantic", "sacrebleu", "scipy", "sklearn")


@pytest.mark.slow
def test_kernels_and_swap_need_nothing_that_only_a_run_needs() -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n"
        "from finetune.bench import accuracy, cases, timing\n"
        "from finetune.attention import register, swap"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
