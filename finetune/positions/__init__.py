"""The positional encodings that can be put into a stock decoder: name, formula and source. Imports no torch.

An encoding is a bias b(i, j) on the scaled score of the query in slot i and the key in slot j, d = i - j >= 0
slots before it; it is added before the mask and the variant. One module has the formula of each
(``finetune.positions.kerple`` and so on); an entry names its class, which is imported when it is first used.
``attach`` puts one into a model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING

from finetune.config.schema import OWN
from finetune.errors import UserError, shown, unknown

if TYPE_CHECKING:
    from finetune.attention.position_bias import PositionBias


@dataclass(frozen=True, eq=False)
class Encoding:
    """The declaration of a positional encoding."""

    name: str
    paper: str
    equation: str
    summary: str
    module: str = ""
    """Where its class is, "package.module:Class"; empty where the stock model has it, or has none."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Fixed constants, name -> default; what is learned is in the weights."""

    learned: Callable[[int, int], int] = lambda layers, heads: 0
    """How many numbers are learned, by the layers and heads of a model."""
    products: Callable[[int], int] = lambda heads: 0
    """Multiplications for each pair of a query and a key in a layer, by heads, beside a value's own."""
    kept: Callable[[int], int] = lambda heads: 0
    """Numbers kept for the backward pass at each such pair, where the bias is a network's."""
    by_row: bool = False
    """Whether the rows of a batch have a bias each."""

    @cached_property
    def bias(self) -> "type[PositionBias]":
        """The class of the modules that compute it, imported on first use."""
        module, _, name = self.module.partition(":")
        bias: type[PositionBias] = getattr(import_module(module), name)
        return bias


_KERPLE = "KERPLE, arXiv 2205.09921 (NeurIPS 2022)"
_DAPE = "DAPE, arXiv 2405.14722 (NeurIPS 2024)"
_DAPE_V2 = "DAPE V2, arXiv 2410.04798 (2024)"


def _learned_kerple(layers: int, heads: int) -> int:
    return layers * 2 * heads


def _learned_dape_v2(layers: int, heads: int) -> int:
    return layers * (2 * heads + 32 + 289 * heads)


def _kept_dape(heads: int) -> int:
    return 64 + 3 * heads


_DECLARED = (
    Encoding(
        name=OWN,
        paper="",
        equation="",
        summary="what the stock architecture has; the only one for most models",
    ),
    Encoding(
        name="none",
        paper="The Impact of Positional Encoding on Length Generalization, arXiv 2305.19466 (NeurIPS 2023)",
        equation="b = 0",
        summary="no encoding: order shows through the causal mask alone",
    ),
    Encoding(
        name="rope",
        paper="RoFormer, arXiv 2104.09864 (2021)",
        equation="query and key rotated by their slots, over the whole head",
        summary="the stock model's own rotary embedding, over whole heads",
    ),
    Encoding(
        name="alibi",
        paper="Train Short, Test Long, arXiv 2108.12409 (ICLR 2022)",
        equation="b = -s d, s = 2^(-8 (h + 1) / heads)",
        summary="a fixed slope a head",
        module="finetune.positions.alibi:Alibi",
    ),
    Encoding(
        name="t5",
        paper="T5, arXiv 1910.10683 (JMLR 2020)",
        equation="b = table[bucket(d)], 32 buckets up to a distance of 128",
        summary="one learned value a head and bucket of distances, shared by all layers",
        module="finetune.positions.t5:T5",
        learned=lambda layers, heads: 32 * heads,
    ),
    Encoding(
        name="kerple",
        paper=f"{_KERPLE}, logarithmic",
        equation="b = -p log(1 + a d), p and a >= .01",
        summary="two learned numbers a head",
        module="finetune.positions.kerple:Kerple",
        learned=_learned_kerple,
    ),
    Encoding(
        name="kerple-power",
        paper=f"{_KERPLE}, power",
        equation="b = -a d^p, .01 <= p <= 2, a >= .01",
        summary="two learned numbers a head",
        module="finetune.positions.kerple:KerplePower",
        learned=_learned_kerple,
    ),
    Encoding(
        name="fire",
        paper="FIRE, arXiv 2310.04418 (ICLR 2024)",
        equation="b = f(phi(d) / phi(max(i, |m L|))), phi(x) = log(1 + |c x|)",
        summary="a small network of the distance relative to the query's own place",
        module="finetune.positions.fire:Fire",
        parameters={"threshold": 512},
        learned=lambda layers, heads: layers * (2 + 64 + 33 * heads),
        products=lambda heads: 32 + 32 * heads,
        kept=lambda heads: 32 + 2 * heads,
    ),
    Encoding(
        name="dape-kerple",
        paper=_DAPE,
        equation="b = k + f([s; k]), k = kerple, f = a network over the heads at each (i, j)",
        summary="kerple, adapted to the scores s",
        module="finetune.positions.dape:DapeKerple",
        learned=lambda layers, heads: layers * (2 * heads + 32 + 97 * heads),
        products=lambda heads: 96 * heads,
        kept=_kept_dape,
        by_row=True,
    ),
    Encoding(
        name="dapev2-kerple",
        paper=f"{_DAPE_V2}, hidden values of masked keys 0",
        equation="b = k + g([s; k]), k = kerple, g = two convolutions over heads and three keys",
        summary="kerple, adapted to the scores of neighboring keys; means the same with a cache as without",
        module="finetune.positions.dape:DapeV2Kerple",
        learned=_learned_dape_v2,
        products=lambda heads: 288 * heads,
        kept=_kept_dape,
        by_row=True,
    ),
    Encoding(
        name="dapev2-kerple-published",
        paper=_DAPE_V2,
        equation="as dapev2-kerple, without that mask between the convolutions",
        summary="as its authors' code has it: its first convolution shows at masked keys; cannot generate",
        module="finetune.positions.dape:DapeV2KerplePublished",
        learned=_learned_dape_v2,
        products=lambda heads: 288 * heads,
        kept=_kept_dape,
        by_row=True,
    ),
)
POSITIONS: dict[str, Encoding] = {encoding.name: encoding for encoding in _DECLARED}


def get_encoding(
    name: str, parameters: Mapping[str, float] | None = None
) -> tuple[Encoding, dict[str, float]]:
    """The encoding called ``name``, and its constants with ``parameters`` laid on. Raises ``UserError``."""
    if name not in POSITIONS:
        raise unknown("positional encoding", name, POSITIONS)
    encoding = POSITIONS[name]
    for given, value in (parameters or {}).items():
        if given not in encoding.parameters:
            if not encoding.parameters:
                raise UserError(f"the positional encoding '{name}' has no parameters: remove '{given}'")
            raise unknown(f"parameter of the positional encoding '{name}'", given, encoding.parameters)
        if not 0 < value < float("inf"):
            raise UserError(f"the parameter {given} of '{name}' must be above 0, not {shown(value)}")
    return encoding, {
        **encoding.parameters,
        **{key: float(value) for key, value in (parameters or {}).items()},
    }
