"""diagnostics.json, beside a run's record: what its attention did at some steps of the training."""

import json
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12

from finetune.errors import UserError
from finetune.system.files import write_text
from finetune.system.parsing import JSON_BYTES, UnreadableError, complaint, json_value, read_text

FILE = "diagnostics.json"
SCHEMA: Literal["finetune-diagnostics"] = "finetune-diagnostics"
VERSION: Literal[1] = 1

Number = float | None  # None: not finite, or nothing there to count


class OverKeys(TypedDict):
    """Queries that see ``start`` to 2 * ``start`` - 1 keys."""

    start: int
    rows: int
    row_sum: Number  # mean
    entropy: Number  # mean, nats
    to_softmax: Number  # mean of half the sum of |w / sum |w| - p|, 0 to 1: p is softmax of the same scores


class AtDistance(TypedDict):
    """Keys that lie ``start`` to 2 * ``start`` - 1 slots from their query; those at 0 and 1 by themselves."""

    start: int
    keys: int  # pairs of a query and such a key
    rows: int  # queries that see such a key; means but reach and bias are over these
    weight: Number  # sum of the weights there: what this distance adds to the sum of a row
    softmax: Number  # the same of softmax on the same scores
    entropy: Number  # what this distance adds to the entropy of a row, nats
    reach: dict[str, Number]  # variant -> mean |dLoss/dscore| of a pair
    bias: NotRequired[Number]  # mean of a pair: what positional encodings add to a score there


class Extents(TypedDict):
    """Rows, also those of one key, by their extent M - m: m = min(x_min, 0), M = max(x_max, 0)."""

    rows: int
    single: int  # rows that see one key
    narrow: int  # rows of an extent below that of the file
    narrow_single: int  # rows that are both
    least: Number  # extent


class LayerSnapshot(TypedDict):
    """One attention call of a pass. Weights are those of the variant, without dropout."""

    layer: int  # in the order of the calls
    module: str
    kind: Literal["encoder", "decoder", "cross"]
    gradient: dict[str, Number]  # query, key, value, output: L2 norm of dLoss/dTensor over the whole batch
    weights: dict[str, Number]  # above, below, negative: shares of the allowed weights; entropy: nats, mean
    row_sum: dict[str, Any]  # mean, sd, quantiles (0, 5, 25, 50, 75, 95, 100%)
    score: dict[str, Number]  # min, max, and range: mean over rows of max - min
    reach: dict[str, dict[str, Number]]  # variant -> mean |dLoss/dscore| of saturated, suppressed, faint, all
    counts: dict[str, int]  # scores that are saturated, suppressed, faint, all
    norm: NotRequired[dict[str, dict[str, Number]]]  # as reach: L2 norm of dLoss/dscore over all of them
    extent: NotRequired[Extents]
    largest: NotRequired[dict[str, Number]]  # variant -> the largest |dLoss/dscore|, rows of one key included
    by_keys: NotRequired[list[OverKeys]]
    by_distance: NotRequired[list[AtDistance]]  # of self-attention
    learned: NotRequired[dict[str, list[Number]]]  # of a positional encoding: one number, or one a head


class Snapshot(TypedDict):
    """The pass of the step after ``step`` updates."""

    step: int
    layers: list[LayerSnapshot]
    share: NotRequired[float]  # of the variant in the weights while they move there from softmax
    after_training: NotRequired[bool]  # on validation rows, without dropout
    rows: NotRequired[int]  # where not those of the file
    length: NotRequired[int]  # tokens of a row or window, at most, where not data.max_length


class Diagnostics(TypedDict):
    """The whole file. Further keys are allowed."""

    schema: Literal["finetune-diagnostics"]
    version: Literal[1]
    variant: str
    rows: int  # of a batch, at most, whose weights were computed again
    saturated: float  # a score is if its softmax probability is above
    suppressed: float  # a score is if its softmax probability is below
    faint: NotRequired[float]  # a score is if its softmax probability is below so much of an even share
    narrow: NotRequired[float]  # a row is if its extent is below
    total_steps: int
    samples: list[Snapshot]


_SHAPE = TypeAdapter(Diagnostics)


def read(file: Path) -> Diagnostics:
    """Reads ``file``; raises ``UserError`` naming it where it is missing or not what was written."""
    try:
        content = json_value(read_text(file, JSON_BYTES))
        # As text again, without NaN and infinity, which are no JSON and of which no curve can be drawn.
        return _SHAPE.validate_json(json.dumps(content, allow_nan=False), strict=True)
    except OSError as error:
        raise UserError(f"cannot read the diagnostics {file}: {error.strerror}") from error
    except UnreadableError as error:
        problem = f"the file is {error}"
    except (ValueError, RecursionError) as error:  # a ValidationError is a ValueError
        problem = complaint(error)
    raise UserError(f"the diagnostics {file} are damaged ({problem}): remove the file")


def write(file: Path, content: Diagnostics) -> Path:
    """Writes ``file``, wholly or not at all."""
    return write_text(file, [json.dumps(content, indent=1, allow_nan=False), "\n"])


def add(content: Diagnostics, snapshot: Snapshot) -> Diagnostics:
    """Adds ``snapshot`` to ``content``, in place of an earlier one of the same step and length."""
    # A run that goes on from a checkpoint comes by steps again that it had looked at before it was killed.
    others = [known for known in content["samples"] if _moment(known) != _moment(snapshot)]
    return {**content, "samples": [*others, snapshot]}


def _moment(snapshot: Snapshot) -> tuple[bool, int, int]:
    return snapshot.get("after_training", False), snapshot["step"], snapshot.get("length", 0)
