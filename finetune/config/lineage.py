"""``model.name: pretrained:FOLDER``: a model that begins from a run, another one for each variant and seed.

``pretrained:runs-lm/books/scratch-small`` has a run begin from the run below that folder that is of its own
variant and seed; ``pretrained:softmax@runs-lm/books/scratch-small`` from that of softmax and its seed,
whatever its own variant is: pretrained with softmax, and swapped later.
"""

from dataclasses import dataclass
from pathlib import Path

from finetune.config.schema import RunConfig
from finetune.errors import UserError

PRETRAINED = "pretrained:"
SCRATCH = "scratch:"
"""Before the size of a model from random weights."""


@dataclass(frozen=True)
class Source:
    """The runs that a model may begin from."""

    folder: Path
    variant: str | None  # whose checkpoint every variant begins from; None: each variant its own

    @property
    def name(self) -> str:
        """As ``model.name`` has it."""
        folder = str(self.folder)
        if self.variant:
            return f"{PRETRAINED}{self.variant}@{folder}"
        # Or a folder such as runs@home would be read as a variant's.
        return f"{PRETRAINED}{'./' if '@' in folder.partition('/')[0] else ''}{folder}"

    @property
    def short(self) -> str:
        """The name with the folder's last two parts alone, which other machines have too."""
        parts = self.folder.parts[-2:] if not self.folder.is_absolute() else self.folder.parts[1:][-2:]
        return Source(Path(*parts), self.variant).name


def source_of(name: str) -> Source | None:
    """The runs that a ``model.name`` means; ``None`` for a model of another kind.

    What stands before an @ is a variant, unless it has a slash.

    >>> source_of("pretrained:softmax@runs/books")
    Source(folder=PosixPath('runs/books'), variant='softmax')
    """
    if not name.startswith(PRETRAINED):
        return None
    variant, _, folder = name.removeprefix(PRETRAINED).rpartition("@")
    if "/" in variant:
        variant, folder = "", name.removeprefix(PRETRAINED)
    if not folder:
        raise UserError(
            f"'{name}' names no folder of runs: write {PRETRAINED}runs-lm/books/scratch-small, or "
            f"{PRETRAINED}softmax@runs-lm/books/scratch-small for the checkpoints of softmax in all variants"
        )
    return Source(Path(folder).expanduser(), variant or None)


def check(config: RunConfig) -> None:
    """Raises ``UserError`` where a setting has no meaning for a model that begins from a run."""
    source = source_of(config.model.name)
    if source is None:
        return
    if config.model.revision is not None:
        raise UserError(f"model.revision is of a model on the Hub, not of {source.name}: leave it null")
    if source.variant is None and config.attention.start != "cold":
        raise UserError(
            f"attention.start {config.attention.start} brings a model to another variant than it was "
            f"pretrained with, and {source.name} gives every variant its own checkpoint: leave it cold, or "
            f"begin from one variant's: {Source(source.folder, 'softmax').name}"
        )
