"""The attention variants that can be compared: name, formula and source of each. Imports no torch.

The functions are in ``functions.py`` (the paper's) and ``controls.py`` (others to compare with); an entry
names its function, which is imported when it is first used. A variant from outside of the project is a file
that declares one, ``--attention path/to/mine.py``, or comes by ``register_variant``.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.choices import BASELINE
from finetune.errors import UserError, shown, unknown
from finetune.system import user_file
from finetune.system.checksum import sha256

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.config.schema import AttentionConfig, VariantFile


@dataclass(frozen=True, eq=False)
class Variant:
    """One map from attention scores to attention weights; ``functions.py`` says what every map keeps to."""

    name: str
    function: "Callable[..., Tensor] | str"
    """``(scores, allowed=None, **parameters) -> weights``, or where it is: "package.module:function"."""
    paper: str
    equation: str
    summary: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Name -> default, all above 0."""
    control: bool = True
    """Not from the paper on Self-Adjust Softmax: there to compare with."""
    kernels: tuple[str, ...] = ()
    """The fused kernels that know its formula; every variant runs on the reference kernel."""
    file: "VariantFile | None" = None
    """Where it comes from, for one that a file of the user's declares; set when that file is read."""

    @cached_property
    def weigh(self) -> "Callable[..., Tensor]":
        """The function itself, imported on first use."""
        if not isinstance(self.function, str):
            return self.function
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


_SELF_ADJUST = "Self-Adjust Softmax, arXiv 2502.18277 (EMNLP 2025)"

_BUILT_IN = (
    Variant(
        name=BASELINE,
        function="finetune.attention.functions:softmax",
        paper="Attention Is All You Need, arXiv 1706.03762 (NIPS 2017)",
        equation="p = exp(x) / sum(exp(x))",
        summary="the baseline, equal to the library's own",
        control=False,
        kernels=("sdpa", "native", "triton"),  # models take sdpa; the others measure what a variant adds
    ),
    Variant(
        name="sa-softmax",
        function="finetune.attention.functions:sa_softmax",
        parameters={"eps": 1e-6},
        paper=f"{_SELF_ADJUST}, Eq. 10",
        equation="(x - m) / (M - m + eps) * p, m = min(min(x), 0), M = max(max(x), 0)",
        summary="softmax times the place of the score in its row's range; the form the paper recommends",
        control=False,
        kernels=("native", "triton", "blocked"),
    ),
    Variant(
        name="sa-softmax-raw",
        function="finetune.attention.functions:sa_softmax_raw",
        paper=_SELF_ADJUST,
        equation="x * p",
        summary="softmax times the score; weights may be negative and rows do not sum to 1",
        control=False,
        kernels=("native", "triton", "blocked"),
    ),
    Variant(
        name="softmax-plus-one",
        function="finetune.attention.controls:softmax_plus_one",
        paper="E. Miller, Attention Is Off By One, evanmiller.org (2023)",
        equation="exp(x) / (1 + sum(exp(x)))",
        summary="softmax with a silent further key of score 0",
    ),
    Variant(
        name="ssmax",
        function="finetune.attention.controls:ssmax",
        parameters={"s": 0.168},
        paper="Scalable-Softmax Is Superior for Attention, arXiv 2501.19399 (2025)",
        equation="softmax(s * log(n) * x), n = allowed keys",
        summary="softmax that sharpens with the number of keys; s is fixed here, its paper learns it",
    ),
    Variant(
        name="sigmoid",
        function="finetune.attention.controls:sigmoid",
        paper="Theory, Analysis, and Best Practices for Sigmoid Self-Attention, arXiv 2409.04431 (2024)",
        equation="sigmoid(x - log(n)), n = allowed keys",
        summary="each key weighed by itself; rows do not sum to 1",
    ),
    Variant(
        name="entmax15",
        function="finetune.attention.controls:entmax15",
        paper="Sparse Sequence-to-Sequence Models, arXiv 1905.05702 (ACL 2019)",
        equation="max(x / 2 - t, 0)^2, t such that the sum is 1",
        summary="1.5-entmax: low scores weigh exactly 0",
    ),
    Variant(
        name="softpick",
        function="finetune.attention.controls:softpick",
        parameters={"eps": 1e-6},
        paper="Softpick: No Attention Sink, No Massive Activations, arXiv 2504.20966 (2025)",
        equation="max(exp(x) - 1, 0) / (sum(|exp(x) - 1|) + eps)",
        summary="rectified softmax: scores below 0 weigh exactly 0",
    ),
    Variant(
        name="sa-softmax-renormalised",
        function="finetune.attention.controls:sa_softmax_renormalised",
        parameters={"eps": 1e-6},
        paper="this project, to tell apart two effects of sa-softmax",
        equation="a / (sum(a) + eps), a = (x - m) * p, m = min(min(x), 0)",
        summary="sa-softmax with rows that sum to 1",
    ),
    Variant(
        name="sa-softmax-guarded",
        function="finetune.attention.controls:sa_softmax_guarded",
        parameters={"eps": 1e-6, "threshold": 1e-3},
        paper="this project, to tell what the gradient of narrow rows does",
        equation="g * p, g = (x - m) / (M - m + eps), without a gradient through g where M - m < threshold",
        summary="sa-softmax whose gradient stays small in rows with all scores near 0",
    ),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _BUILT_IN}
BUILT_IN = frozenset(VARIANTS)
PAPER = tuple(variant.name for variant in _BUILT_IN if not variant.control)
"""The variants that the paper compares, the baseline first."""


on_registration: list[Callable[[Variant], None]] = []
"""Called with each variant that is registered: so transformers' registries get it, once they are loaded."""


def get_variant(name_or_path: str) -> Variant:
    """A known name, or a user's own ``path/to/mine.py`` (``path/to/mine.py:NAME`` where it declares several).

    A file's variant is known by its name from then on. Raises ``UserError`` for an unknown name (with the
    nearest one) and for a file that is missing, fails to run, or does not hold exactly one declaration.
    """
    if user_file.is_file(name_or_path):
        return _from_file(name_or_path)
    if name_or_path not in VARIANTS:
        raise unknown("attention variant", name_or_path, VARIANTS)
    return VARIANTS[name_or_path]


def register_variant(variant: Variant | str | Path) -> Variant:
    """Make a variant of the user's own, or the one that a file of theirs declares, known by its name.

    A script that trains with a loop of its own may declare one and ``swap`` it in. A run records the file
    that its variant comes from, so for ``finetune classify`` and studies it must be one. Registering a name
    again replaces it. Raises ``UserError`` for the name of a built-in variant.
    """
    if not isinstance(variant, Variant):
        return get_variant(str(variant))
    if variant is VARIANTS.get(variant.name):
        return variant
    _check_own(variant)
    for notify in on_registration:
        notify(variant)
    VARIANTS[variant.name] = variant
    return variant


def find_variant(attention: "AttentionConfig") -> Variant:
    """The variant that a configuration names; where it is a user's own, by its file.

    The file must hold what the configuration's SHA-256 says: ``UserError`` with what to give where it is gone
    or another by now.
    """
    wanted = attention.file
    known = VARIANTS.get(attention.variant)
    if wanted is None or (known and known.file and known.file.sha256 == wanted.sha256):
        return get_variant(attention.variant)
    path, _ = user_file.split(wanted.path)
    if not path.is_file():
        fault = f"there is no file '{path}'"
    elif sha256(path) != wanted.sha256:
        fault = f"'{path}' has another content by now"
    else:
        return get_variant(wanted.path)
    raise UserError(
        f"the attention variant '{attention.variant}' is from a file with SHA-256 {wanted.sha256[:12]}..., "
        f"and {fault}: put that file back, or say where it is: "
        f'finetune.load(..., attention="path/to/{path.name}"), or --attention path/to/{path.name}'
    )


def attention_for(attention: Mapping[str, Any], name_or_path: str) -> dict[str, Any]:
    """``attention`` of a grid's configuration for the runs of one variant.

    Parameters go to the variants that have them, a scope and a warm start to those that differ from the
    baseline: softmax within a scope and outside it is softmax everywhere.
    """
    variant = get_variant(name_or_path)
    if variant.name not in BUILT_IN and variant.file is None:
        raise UserError(
            f"the variant '{variant.name}' was registered by a script, and a run records the file that its "
            "variant comes from: put it into a file, and give its path, e.g. --attention path/to/mine.py"
        )
    own = {name: value for name, value in attention["parameters"].items() if name in variant.parameters}
    baseline = {"scope": "all", "start": "cold"} if variant.name == BASELINE else {}
    file = {"file": asdict(variant.file)} if variant.file else {}
    return {**attention, "variant": variant.name, "parameters": own, **baseline, **file}


def known_to(kernel: str) -> tuple[str, ...]:
    """The variants whose formula a fused kernel knows; a kernel numbers them by their place here."""
    return tuple(variant.name for variant in _BUILT_IN if kernel in variant.kernels)


def _from_file(text: str) -> Variant:
    """The variant that a file declares, registered; it runs again only where its content has changed."""
    from finetune.config.schema import VariantFile

    path, _ = user_file.split(text)
    file = VariantFile(path=text, sha256=sha256(path)) if path.is_file() else None
    for known in VARIANTS.values():
        if known.file and known.file == file:
            return known
    built_in = {name: VARIANTS[name] for name in BUILT_IN}
    example = "VARIANT = Variant(name=..., function=..., ...)"
    variant = user_file.declared(text, "variant", Variant, built_in, example)
    try:
        _check_own(variant)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    other = VARIANTS.get(variant.name)
    if other is not None and other.file is not None:
        place, wanted = user_file.split(other.file.path)
        if (place.resolve(), wanted) != (path.resolve(), user_file.split(text)[1]):
            raise UserError(f"{path} and {other.file.path} both name a variant '{variant.name}'; rename one")
    return register_variant(replace(variant, file=file))


def _check_own(variant: Variant) -> None:
    """Raise ``UserError`` where a declaration is not one that a run can have."""
    name = variant.name
    if name in BUILT_IN:
        raise UserError(f"the variant '{name}' is built in; give yours another name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,63}", str(name)):
        raise UserError(
            f"a variant's name is of letters, digits, - and _, such as relu-over-n, not {shown(name)}"
        )
    if variant.kernels:
        raise UserError(f"no fused kernel knows the formula of '{name}': leave kernels out")
    for parameter, default in variant.parameters.items():
        if not (isinstance(default, int | float) and math.isfinite(default) and default > 0):
            raise UserError(
                f"the parameter {parameter} of '{name}' needs a default above 0, not {shown(default)}"
            )
