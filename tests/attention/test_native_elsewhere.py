"""The native kernel by other compilers, and on another processor: an aarch64 that is emulated.

``apt-get install clang ccache gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static`` has them; a test
without its program is skipped.
"""

import ctypes
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from finetune.attention.kernels.native import build, native_attention
from tests.attention.test_kernels import MASKS, bind, errors, make, results

pytestmark = pytest.mark.slow  # a compiler takes seconds

CROSS, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64-static"
SYSTEM = "/usr/aarch64-linux-gnu"  # where the emulated processor's libraries are
ADDRESSES = (
    "query", "key", "value", "bias", "out", "grad_out", "grad_query", "grad_key", "grad_value", "allowed",
    "inverse_sum", "grad_by_distance",
)  # fmt: skip


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")


@pytest.mark.parametrize(
    "compiler",
    [
        pytest.param("gcc", marks=needs("gcc")),
        pytest.param("clang", marks=needs("clang")),
        pytest.param("ccache gcc", marks=needs("ccache", "gcc")),
    ],
)
def test_every_compiler_makes_the_same_kernel(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its threads from torch's OpenMP, of which clang knows another one, and in a fork's own."""
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("CCACHE_DIR", str(tmp_path / "ccache"))
    library = build._load(build._Recipe.here())
    monkeypatch.setattr(build, "library", lambda: library)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for process in (os.getpid(), 0):
            monkeypatch.setattr(native_attention, "_PROCESS", process)
            for mask in ("padded", "causal", "per head"):
                torch.manual_seed(1)
                inputs = make((2, 4, 2, 70, 90, 24), mask, scale=2.0)
                for error, allowed in errors("native", inputs, bind("sa-softmax")):
                    assert error <= allowed
    finally:
        torch.set_num_threads(before)


class Emulated:
    """``native_attention._run`` on another processor: what a call points to is sent there, and comes back."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.calls = 0

    def __call__(self, function: str, call: native_attention._CallStruct) -> None:
        self.calls += 1
        sent = native_attention._CallStruct.from_buffer_copy(call)
        places = []
        for name in ADDRESSES:
            field = getattr(sent, name)
            address = field if isinstance(field, int | None) else field.data
            size = self.bytes_of(name, call) if address else 0
            if isinstance(field, int | None):
                setattr(sent, name, size)
            else:
                field.data = size
            places += [(address, size)] if size else []
        payload = b"".join(ctypes.string_at(address, size) for address, size in places)
        number = int(function == "attention_backward").to_bytes(8, "little")
        done = subprocess.run(
            [EMULATOR, "-L", SYSTEM, str(self.program)],
            input=number + bytes(sent) + payload, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 and len(done.stdout) == len(payload), done
        position = 0
        for address, size in places:
            ctypes.memmove(address, done.stdout[position : position + size], size)
            position += size

    @staticmethod
    def bytes_of(name: str, call: native_attention._CallStruct) -> int:
        """From the first to the last number of a tensor of a call."""
        if name == "inverse_sum":
            return int(4 * call.batch * call.heads * call.query_len)
        tensor = getattr(call, name)
        queries, keys = (call.heads, call.query_len), (call.key_heads, call.key_len)
        shape = {"bias": (*queries, call.key_len), "allowed": (*queries, call.key_len)}.get(name)
        if shape is None:
            shape = (*(keys if name.endswith(("key", "value")) else queries), call.width)
        strides = (tensor.batch, tensor.head, tensor.row, tensor.column)
        last = sum((n - 1) * stride for n, stride in zip((call.batch, *shape), strides, strict=True))
        size = 1 if name == "allowed" else native_attention.TYPES[tensor.type].itemsize
        return int((last + 1) * size)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """native.c for aarch64, with a main function."""
    folder = tmp_path_factory.mktemp("aarch64")
    driver = Path(__file__).with_name("native_driver.c")
    sources = Path(native_attention.__file__).parent
    flags = [flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")]
    made = folder / "native"
    command = [CROSS, *flags, "-I", str(sources), str(driver), "-o", str(made), "-lm", "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@needs(CROSS, EMULATOR)
@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        ("sa-softmax", torch.float32), ("sa-softmax", torch.bfloat16), ("sa-softmax", torch.float16),
        ("sa-softmax-raw", torch.float32), ("softmax", torch.float32),
    ],
    ids=str,
)  # fmt: skip
def test_an_emulated_aarch64_computes_the_same(
    program: Path, variant: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, on threads that the call makes for itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for number, mask in enumerate(MASKS):
            torch.manual_seed(number)
            inputs = make((2, 4, 2, 37, 45, 24), mask, scale=2.0, dtype=dtype, bias=number % 2 == 0)
            inputs = replace(inputs, dropout=0.1 if mask == "padded" and inputs.bias is None else 0.0)
            arriving = torch.randn(2, 37, 4, 24)
            found: list[list[Tensor]] = []
            emulated = Emulated(program)
            for emulate in (False, True):
                with monkeypatch.context() as patched:
                    if emulate:
                        patched.setattr(native_attention, "_run", emulated)
                    torch.manual_seed(3)
                    output = native_attention.attend(inputs, bind(variant))
                    found.append(results(output, inputs, arriving))
            assert emulated.calls == 2
            # In bfloat16 this processor may round weights for its products, which that one does not.
            tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
            for here, there in zip(*found, strict=True):
                assert (here.float() - there.float()).norm() <= tolerance * here.float().norm(), mask
    finally:
        torch.set_num_threads(before)
