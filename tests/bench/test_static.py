"""The Triton kernels compiled for GPUs that are not there, and the matrix products that they make."""

import json
import os
import subprocess
import sys
from itertools import product
from typing import Any

import pytest

from finetune.attention.kernels.triton.forms import FORMS
from finetune.bench import products, static

pytest.importorskip("triton", reason="Triton is not installed")

COMPILE = """
import json, sys
from dataclasses import asdict
from finetune.bench import static
plain = [case for case in static.CORE if case.form == static.DEFAULT]
plain += [case for case in static.CASES if case.by_distance]
jobs = [(case, chip) for case in plain for chip in static.CHIPS]
others = ("fused", "descriptors", "one-tile")  # between them they have every kernel of the other forms
jobs += [(case, (9, 0)) for case in static.CORE if case.form in others and case.width == 64]
rows = [row for case, chip in jobs for row in static.compile_case(case, chip)]
print(json.dumps([asdict(row) for row in rows]))
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every kernel of the plainest calls, for each GPU. In a process of its own: here Triton interprets."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {"TRITON_CACHE_DIR": str(folder), "TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows: list[dict[str, Any]] = json.loads(run.stdout)
    return rows


@pytest.mark.slow
def test_every_kernel_compiles_for_both_gpus(compiled: list[dict[str, Any]]) -> None:
    usual = [row for row in compiled if row["case"]["form"] == static.DEFAULT]
    found = {(tuple(row["capability"]), row["case"]["width"], row["kernel"]) for row in usual}
    kernels = ("attend_rows", "query_gradient", "key_value_gradient", "distance_gradient")
    assert found == set(product(static.CHIPS, (64, 128), kernels))
    others = {row["kernel"] for row in compiled} - set(kernels)
    once = {"attend_rows_once", "row_numbers", "all_gradients", "find_span"}
    assert others == {*once, "attend_tile", "tile_gradients"}


@pytest.mark.slow
def test_no_register_is_spilled_at_the_common_widths(compiled: list[dict[str, Any]]) -> None:
    spilled = [
        (row["capability"], row["case"]["width"], row["kernel"], row["spilled"])
        for row in compiled
        if row["spilled"] or row["instructions"]["STL"]
    ]
    assert not spilled


@pytest.mark.slow
def test_products_run_on_the_matrix_units_of_each_gpu(compiled: list[dict[str, Any]]) -> None:
    for row in compiled:
        if row["kernel"] in ("row_numbers", "find_span"):  # they have none
            continue
        if row["case"]["by_distance"] or row["case"]["form"] == "one-tile":  # small tiles, of one stage
            continue
        assert row["products"] == ("HGMMA" if row["capability"] == [9, 0] else "HMMA"), row
        assert row["instructions"]["LDGSTS"] or row["instructions"]["UTMALDG"], "no copy runs ahead"
        assert row["blocks"] >= 1, "it does not fit the chip"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("variant", "forward"), [("softmax", 2), ("sa-softmax", 3), ("sa-softmax-raw", 2)])
def test_matrix_products_are_as_stated(variant: str, forward: int, form: str) -> None:
    first, *backward = products.count(variant, form).values()
    one_tile = FORMS[form].one_tile
    assert first == (2 if one_tile else forward)
    assert backward == ([5] if one_tile or FORMS[form].fused_backward else [3, 4])


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "blocks", "bound"),
    [
        (255, 0, 8, 1, "registers"),  # 256 registers of 256 threads: the whole file
        (128, 0, 8, 2, "registers"),
        (128, 100 * 1024, 8, 1, "shared memory"),
        (32, 0, 8, 8, "registers"),
        (16, 0, 1, 32, "blocks"),
        (16, 164 * 1024, 4, 0, "shared memory"),
    ],
)
def test_occupancy(registers: int, shared: int, warps: int, blocks: int, bound: str) -> None:
    assert static._fitting(static.CHIPS[8, 0], registers, shared, warps) == (blocks, bound)


def test_tables_have_a_line_for_each_kernel_and_variant() -> None:
    row = static.Compiled(
        (8, 0), static.CORE[0], "attend_rows", (128, 64, 8, 3), 222, 0, 49152, "HMMA", {"HMMA": 192}, 1,
        "registers",
    )  # fmt: skip
    assert static.table([row])[1] == [
        "sm_80", "two-sweeps, sa-softmax, 64, bfloat16, padded", "attend_rows", "128 x 64, 8 warps, 3 stages",
        "222", "0 B", "48", "192 HMMA", "1, 12% (registers)",
    ]  # fmt: skip
    lines = static.products_table({"fused": {"softmax": {"attend_rows": 2.0, "all_gradients": 5.0}}})
    assert lines[1:] == [
        ["fused, softmax", "attend_rows 2, all_gradients 5", "7"],
        ["FlashAttention", "", "7"],
    ]
