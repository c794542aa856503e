"""A name that is no key of a configuration -> the error that says which key was meant."""

from collections.abc import Collection, Iterable, Mapping

from finetune import objectives
from finetune.attention import VARIANTS
from finetune.config import names
from finetune.errors import UserError, unknown
from finetune.positions import POSITIONS
from finetune.training.renamed import INSTEAD

ELSEWHERE = {"kind": "objective", "seed": "seeds", "attention.variant": "variants",
             "attention.file.path": "variants", "attention.file.sha256": "variants"}  # fmt: skip
"""Keys of the configuration that a grid sets, and what is given in their place."""


def every(kinds: Iterable[str] = ()) -> list[str]:
    """Every key by its dotted name: of the schema, of parameters, and of ``train`` what a preset sets.

    With ``kinds`` of task every field of TrainingArguments that these leave to a user is there too, for which
    transformers is imported, which takes seconds.
    """
    of_variants = {f"attention.parameters.{name}" for each in VARIANTS.values() for name in each.parameters}
    of_positions = {
        f"model.position_parameters.{name}" for each in POSITIONS.values() for name in each.parameters
    }
    found = {*names.known(), *of_variants, *of_positions}
    if kinds:
        from finetune.training.arguments import admitted

        found |= {f"train.{field}" for kind in kinds for field in admitted(kind)}
    return sorted(found)


def unknown_key(
    what: str,
    name: str,
    allowed: Collection[str],
    *,
    kinds: Iterable[str] = (),
    elsewhere: Mapping[str, str] = ELSEWHERE,
    dashes: str = "",
) -> UserError:
    """Words the error for a ``name`` whose first part is none of ``allowed``.

    The hint is a key that ends like it, ``train.learning_rate`` for ``learning_rate``, or that has its place
    now, and else the nearest of ``allowed``. ``kinds`` of task, if known, say which fields ``train`` has;
    ``elsewhere``: what is given in the place of some keys; ``dashes`` stand before a key as it is typed.
    """
    section, _, below = name.partition(".")
    meant = names.ending(name, every())
    if not meant and not below:
        keys, instead = every(kinds or objectives.kinds()), INSTEAD.get(name.replace("-", "_"), name)
        meant = names.ending(name, keys) or names.ending(instead.removeprefix("--"), keys)
    typed = dict.fromkeys(dashes + elsewhere.get(key, key) for key in meant)
    shown = name if meant else section
    return unknown(what, dashes + shown, (dashes + each for each in allowed), list(typed))
