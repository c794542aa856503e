"""A variant of the user's own: from a file or a script, known by its name, checked before it is used."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.attention import VARIANTS, Variant, contract, find_variant, get_variant, register_variant
from finetune.attention.swap import swap
from finetune.attention.variants import attention_for
from finetune.config.folders import variant_slug
from finetune.config.schema import AttentionConfig
from finetune.errors import UserError
from finetune.system.checksum import sha256
from tests.support.tiny_models import FAMILIES

ATTENTION = {
    "scope": "all", "kernel": "auto", "start": "cold", "annealing_share": None, "parameters": {},
}  # fmt: skip
FILE = """
import torch
from finetune.attention import VARIANTS, Variant

def halved(scores, allowed=None, *, scale=0.5):
    return scale * VARIANTS["softmax"].weigh(scores, allowed)

OTHER = VARIANTS["ssmax"]
VARIANT = Variant("halved", halved, parameters={"scale": 0.5}, paper="", equation="", summary="")
"""


def write(folder: Path, text: str = FILE, name: str = "mine.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def config(path: str) -> AttentionConfig:
    return AttentionConfig(**attention_for(ATTENTION, path))


def mine(function: Any, **options: Any) -> Variant:
    return Variant(
        **{"name": "mine", "function": function, "paper": "", "equation": "", "summary": "", **options}
    )


def softmax(scores: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    return VARIANTS["softmax"].weigh(scores, allowed)


def minus_infinity(scores: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
    """The usual mask: its weights can be mended where a query sees no key, its gradients are NaN."""
    blocked = (
        torch.zeros(()) if allowed is None else torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)
    )
    return torch.softmax(scores.float() + blocked, dim=-1).nan_to_num(0.0)


def test_a_file_s_variant_is_swapped_in_and_known_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    model = FAMILIES["bert"].build()
    report = swap(model, path, parameters={"scale": 0.25})
    assert (report.variant, report.parameters, report.kernel) == ("halved", {"scale": 0.25}, "reference")
    assert get_variant("halved") is get_variant(path)
    assert swap(model, "halved").parameters == {"scale": 0.5}


def test_a_configuration_says_which_file_and_finds_it_again(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = config(path)
    assert found.variant == "halved" and found.file
    assert (found.file.path, found.file.sha256) == (path, sha256(Path(path)))
    assert variant_slug(found) == f"halved-{found.file.sha256[:8]}"
    del VARIANTS["halved"]  # as in another process
    assert find_variant(found).name == "halved"


def test_a_file_that_is_gone_or_changed_is_named_with_what_to_give(tmp_path: Path) -> None:
    path = write(tmp_path)
    found = config(path)
    del VARIANTS["halved"]
    write(tmp_path, FILE + "# edited\n")
    with pytest.raises(UserError, match=r"'halved' is from a file with SHA-256 .*another content by now"):
        find_variant(found)
    Path(path).unlink()
    with pytest.raises(
        UserError, match=r"there is no file .*finetune\.load\(\.\.\., attention=.*--attention"
    ):
        find_variant(found)


def test_an_edited_file_is_another_variant(tmp_path: Path) -> None:
    path = write(tmp_path)
    first = config(path)
    write(tmp_path, FILE.replace('"scale": 0.5', '"scale": 0.75'))
    second = config(path)
    assert get_variant("halved").parameters == {"scale": 0.75}
    assert variant_slug(first) != variant_slug(second)


@pytest.mark.parametrize(
    ("text", "ending", "message"),
    [
        ("", "", r"mine\.py declares no variant; it needs one like VARIANT = Variant\(name=\.\.\., "),
        ("1 / 0", "", r"mine\.py failed to run: ZeroDivisionError: division by zero"),
        (FILE.replace("halved", "softmax"), "", r"mine\.py names its variant 'softmax', which is built in"),
        (FILE.replace('"halved"', '"my/variant"'), "", r"a variant's name is of letters, .*not 'my/variant'"),
        (FILE.replace("0.5}", "0}"), "", r"the parameter scale of 'halved' needs a default above 0, not 0"),
        (FILE.replace("paper=", "kernels=('native',), paper="), "", "no fused kernel .* leave kernels out"),
        (FILE, ":VARAINT", r"unknown variant variable in .*mine\.py 'VARAINT': did you mean 'VARIANT'"),
        (FILE + "B = Variant(name='b', function=halved, paper='', equation='', summary='')\n", "",
         r"mine\.py declares 2 variants; choose one: .*mine\.py:VARIANT, .*mine\.py:B"),
    ],
)  # fmt: skip
def test_a_faulty_file_is_named_with_what_to_do(tmp_path: Path, text: str, ending: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_variant(write(tmp_path, text) + ending)


def test_no_file_is_there_and_two_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no variant file 'nowhere\.py'; give a path .* softmax"):
        get_variant("nowhere.py")
    write(tmp_path)
    get_variant(str(tmp_path / "mine.py"))
    with pytest.raises(UserError, match=r"other\.py and .*mine\.py both name a variant 'halved'; rename one"):
        get_variant(write(tmp_path, name="other.py"))


def test_a_script_s_variant_is_swapped_in_but_no_run_records_it() -> None:
    declared = mine(softmax)
    assert register_variant(declared) is declared is get_variant("mine")
    assert swap(FAMILIES["bert"].build(), declared).variant == "mine"
    with pytest.raises(UserError, match=r"'mine' was registered by a script.* --attention path/to/mine\.py"):
        attention_for(ATTENTION, "mine")
    with pytest.raises(UserError, match="'softmax' is built in"):
        register_variant(mine(softmax, name="softmax"))


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        (lambda scores, allowed=None: softmax(scores), "not allowed must have the weight 0 exactly"),
        (lambda scores, allowed=None: softmax(scores, allowed).sum(-1), "must have the shape of the scores"),
        (lambda scores, allowed=None: softmax(scores, allowed).to(scores), "returns torch.float16 for"),
        (lambda scores, allowed=None: softmax(scores.detach(), allowed), "no gradient flows"),
        (lambda scores, allowed=None: softmax(scores.data.mul_(2) + scores, allowed), "scores in place"),
        (lambda scores, allowed: softmax(scores, allowed, eps=1.0), "it raises TypeError: "),
        (minus_infinity, "not finite where a key is blocked"),
    ],
)  # fmt: skip
def test_what_breaks_the_contract_is_not_used(function: Any, fault: str) -> None:
    with pytest.raises(UserError, match=f"the variant 'mine' cannot be used: .*{re.escape(fault)}"):
        swap(FAMILIES["bert"].build(), mine(function))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_built_in_variants_keep_the_contract(name: str) -> None:
    contract.check(VARIANTS[name])


def test_the_variant_of_the_docs_is_one(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "variants.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    (declared,) = [block for block in blocks if "Variant(" in block]
    variant = get_variant(write(tmp_path, declared))
    contract.check(variant)
    assert variant.control
