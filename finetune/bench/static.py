"""What the Triton kernels become on GPUs that are not there: compiled for each, launched on none.

``python -m finetune.bench.static [FOLDER]`` compiles every kernel for compute capability 8.0 (A100) and 9.0
(H100, H200) with the ``ptxas`` that comes with Triton, reads registers, spills, shared memory and
instructions off the binaries, and counts matrix products (``products``). With FOLDER, static.json and
static.md go there.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.attention import PAPER, get_variant
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.triton import launch, triton_attention
from finetune.attention.kernels.triton.forms import DEFAULT, FORMS, MOST_KEYS
from finetune.system.files import write_text
from finetune.system.processes import python_module
from finetune.system.sheet import Sheet, terminal_width
from finetune.system.tables import markdown

Capability = tuple[int, int]
LENGTH = 256  # tokens: no shorter than a tile
SHORT = 64  # of what one tile holds


@dataclass(frozen=True)
class Chip:
    """What one multiprocessor has (CUDA C++ Programming Guide, "Technical Specifications per Compute
    Capability"): registers of 32 bits, warps, blocks, bytes of shared memory in all and to one block."""

    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared: int = 0
    shared_of_block: int = 0


CHIPS: dict[Capability, Chip] = {
    (8, 0): Chip(shared=164 * 1024, shared_of_block=163 * 1024),
    (9, 0): Chip(shared=228 * 1024, shared_of_block=227 * 1024),
}
RESERVED = 1024  # bytes of shared memory that the system takes of each block


@dataclass(frozen=True)
class Case:
    """One attention call to compile for: self-attention of two heads, forward and backward."""

    variant: str
    width: int
    dtype: str = "bfloat16"
    mask: str = "padded"  # as in ``cases``
    bias: bool = False  # (1, heads, query, key), trained
    by_distance: bool = False  # a trained one, too
    dropout: float = 0.0
    form: str = DEFAULT
    length: int = LENGTH

    def inputs(self) -> Inputs:
        """Tensors on the CPU, of whose numbers nothing is read."""
        shape = (1, 2, self.length, self.width)
        query, key, value = (
            torch.empty(shape, dtype=getattr(torch, self.dtype), requires_grad=True) for _ in range(3)
        )
        allowed = torch.ones(1, 1, 1, self.length, dtype=torch.bool) if self.mask == "padded" else None
        bias = torch.empty(1, 2, self.length, self.length, requires_grad=True) if self.bias else None
        line = torch.empty(2, 2 * self.length - 1, requires_grad=True) if self.by_distance else None
        rest = (self.width**-0.5, self.dropout, line)
        return Inputs(query, key, value, allowed, bias, self.mask == "causal", *rest)


CORE = tuple(
    Case("sa-softmax", width, form=form, length=SHORT if FORMS[form].one_tile else LENGTH)
    for form in FORMS
    for width in (64, 128)
)
CASES = (
    *CORE,
    *(Case(variant, 64) for variant in PAPER if variant != "sa-softmax"),
    Case("sa-softmax", 64, mask="whole"),
    Case("sa-softmax", 64, mask="causal"),
    Case("sa-softmax", 128, mask="causal"),
    Case("sa-softmax", 64, bias=True),
    Case("sa-softmax", 64, by_distance=True),
    Case("sa-softmax", 128, by_distance=True),
    Case("sa-softmax", 64, dropout=0.1),
    Case("sa-softmax", 64, form="one-tile", length=MOST_KEYS),
    Case("sa-softmax", 80),
    Case("sa-softmax", 64, dtype="float32"),
)


@dataclass(frozen=True)
class Compiled:
    """One kernel for one chip. Bytes are of a thread for ``spilled``, of a block for ``shared``."""

    capability: Capability
    case: Case
    kernel: str
    tile: launch.Tile
    registers: int  # of a thread
    spilled: int
    shared: int
    products: str  # instruction of the matrix units
    instructions: dict[str, int]  # how often each of ``WATCHED`` stands in the code
    blocks: int  # of a multiprocessor at a time
    bound: str  # what keeps a further block out

    @property
    def occupancy(self) -> float:
        """Warps that a multiprocessor holds, over the most it can."""
        return self.blocks * self.tile[2] / CHIPS[self.capability].warps


# Matrix units (Ampere, Hopper), copies to shared memory (by thread, by the tensor memory unit), loads from it
# for matrix units, exponentials and reciprocals, stores and loads of spilled registers.
WATCHED = ("HMMA", "HGMMA", "LDGSTS", "UTMALDG", "LDSM", "MUFU", "STL", "LDL")


def compile_case(case: Case, capability: Capability) -> list[Compiled]:
    """Every kernel that forward and backward of ``case`` launch, compiled for ``capability``.

    To be called where Triton compiles (``TRITON_INTERPRET`` unset when it is imported).
    """
    with _compiling(capability) as launched:
        output = triton_attention.attend(case.inputs(), BoundVariant.of(get_variant(case.variant)), case.form)
        output.sum().backward()
    return [_read(case, capability, name, tile, kernel) for name, tile, kernel in launched]


class _Nowhere:
    """A driver of Triton's without a device."""

    def __init__(self, capability: Capability) -> None:
        self.arch = 10 * capability[0] + capability[1]

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # under which Triton keeps what it has compiled

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _compiling(capability: Capability) -> Iterator[list[tuple[str, launch.Tile, Any]]]:
    """A launch compiles, and is noted: (kernel's name, its tile, Triton's compiled kernel)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    launched: list[tuple[str, launch.Tile, Any]] = []
    run, tile = JITFunction.run, launch.Launch.tile
    tiles: dict[str, launch.Tile] = {}

    def noting_tile(call: launch.Launch, kernel: str) -> launch.Tile:
        tiles[kernel] = tile(call, kernel)
        return tiles[kernel]

    def warm_up(function: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(function, *arguments, grid=grid, warmup=True, **options)
        name, about = function.__name__, kernel.metadata
        launched.append((name, tiles.get(name, (0, 0, about.num_warps, about.num_stages)), kernel))

    driver.set_active(_Nowhere(capability))
    token = launch.aim.set(capability)
    JITFunction.run, launch.Launch.tile = warm_up, noting_tile  # type: ignore[method-assign,assignment]
    try:
        yield launched
    finally:
        JITFunction.run, launch.Launch.tile = run, tile  # type: ignore[method-assign]
        launch.aim.reset(token)


def _read(case: Case, capability: Capability, name: str, tile: launch.Tile, kernel: Any) -> Compiled:
    registers, spilled, instructions = _disassembled(kernel.asm["cubin"])
    shared = kernel.metadata.shared
    blocks, bound = _fitting(CHIPS[capability], registers, shared, tile[2])
    return Compiled(
        capability, case, name, tile, registers, spilled, shared,
        next((name for name in ("HGMMA", "HMMA") if instructions[name]), "none"),
        {word: instructions[word] for word in WATCHED}, blocks, bound,
    )  # fmt: skip


def _disassembled(binary: bytes) -> tuple[int, int, Counter[str]]:
    """Registers of a thread, bytes of its stack (where spilled registers go), and instructions by name."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (
            subprocess.run(
                [knobs.nvidia.cuobjdump.path, what, file.name], capture_output=True, text=True, check=True
            ).stdout
            for what in ("-res-usage", "-sass")
        )
    numbers = {word: int(number) for word, number in re.findall(r"(REG|STACK):(\d+)", usage)}
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)[. ;]", code)
    return numbers["REG"], numbers["STACK"], Counter(names)


def _fitting(chip: Chip, registers: int, shared: int, warps: int) -> tuple[int, str]:
    """How many blocks a multiprocessor holds at a time, and what keeps a further one out."""
    a_warp = -(-registers * 32 // 256) * 256  # registers are given out in units of 256 to a warp
    most = {
        "registers": chip.registers // a_warp // warps,
        "shared memory": chip.shared // (shared + RESERVED) if shared <= chip.shared_of_block else 0,
        "warps": chip.warps // warps,
        "blocks": chip.blocks,
    }
    bound = min(most, key=lambda name: most[name])
    return most[bound], bound


def table(rows: Sequence[Compiled]) -> list[list[str]]:
    """A line a kernel, the head first."""
    head = ["GPU", "case", "kernel", "tile", "registers", "spilled", "shared KiB", "matrix instruction"]
    body = []
    for row in rows:
        queries, keys, warps, stages = row.tile
        body.append([
            f"sm_{row.capability[0]}{row.capability[1]}", describe(row.case), row.kernel,
            f"{queries} x {keys}, {warps} warps, {stages} stages" if queries else f"none, {warps} warps",
            str(row.registers), f"{row.spilled} B",
            f"{row.shared / 1024:.0f}", f"{row.instructions.get(row.products, '')} {row.products}".strip(),
            f"{row.blocks}, {row.occupancy:.0%} ({row.bound})",
        ])  # fmt: skip
    return [[*head, "blocks, occupancy (bound by)"], *body]


def describe(case: Case) -> str:
    """``one-sweep, sa-softmax, 64, bfloat16, padded, dropout``."""
    options = (("bias", case.bias), ("bias by distance", case.by_distance), ("dropout", case.dropout > 0))
    extra = [name for name, given in options if given]
    return ", ".join([case.form, case.variant, str(case.width), case.dtype, case.mask, *extra])


def count_products() -> dict[str, dict[str, dict[str, float]]]:
    """Products of each kernel by form and variant, counted in an interpreter of their own process."""
    run = subprocess.run(
        python_module("finetune.bench.products"),
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    counts: dict[str, dict[str, dict[str, float]]] = json.loads(run.stdout)
    return counts


def products_table(counts: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    """A line a form and variant: products of each kernel and in all, the head first."""
    body = []
    for form, by_variant in counts.items():
        for variant, by_kernel in by_variant.items():
            parts = ", ".join(f"{kernel} {number:g}" for kernel, number in by_kernel.items())
            body.append([f"{form}, {variant}", parts, f"{sum(by_kernel.values()):g}"])
    return [["form, variant", "matrix products of each kernel", "in all"], *body, ["FlashAttention", "", "7"]]


def main(folder: Path | None) -> None:
    """Prints both tables; writes static.json and static.md to ``folder``."""
    import triton

    rows = [row for case in CASES for chip in CHIPS for row in compile_case(case, chip)]
    counts = count_products()
    sheet = Sheet(terminal_width())
    tables = [products_table(counts), table(rows)]
    print("\n\n".join(sheet.table(lines) for lines in tables))
    if folder is not None:
        result = {"triton": triton.__version__, "products": counts, "kernels": [asdict(row) for row in rows]}
        write_text(folder / "static.json", [json.dumps(result, indent=1), "\n"])
        page = [
            "# Triton kernels, compiled for GPUs that were not there",
            f"By `python -m finetune.bench.static` with Triton {triton.__version__}: none was run on a GPU.",
            *(markdown(lines).rstrip() for lines in tables),
        ]
        write_text(folder / "static.md", ["\n\n".join(page), "\n"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
