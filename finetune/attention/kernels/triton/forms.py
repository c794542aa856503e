"""The forms in which one attention call is cut into kernels; all of them compute the same.

Which one is the fastest only a GPU can say, so none is dropped before one has: ``DEFAULT`` is what runs, the
others are there to be measured beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Form:
    """How the two passes are cut into kernels."""

    sweeps: int = 2  # over the keys, in sa-softmax's forward pass; the other variants need one
    fused_backward: bool = False  # one kernel of five products, which adds to the query gradient atomically
    spans: bool = False  # passes over blocks of keys before the first and after the last allowed one


FORMS: Mapping[str, Form] = {
    "two-sweeps": Form(),
    "spans": Form(spans=True),
    "one-sweep": Form(sweeps=1, spans=True),
    "fused": Form(sweeps=1, spans=True, fused_backward=True),
}
DEFAULT = "two-sweeps"


def chosen(name: str, deterministic: bool) -> str:
    """Form ``name``; where equal inputs have to give equal bits, one without atomic additions."""
    if deterministic and FORMS[name].fused_backward:
        in_order = replace(FORMS[name], fused_backward=False)
        return next(other for other, form in FORMS.items() if form == in_order)
    return name
