"""A task of a kind of its own: which words of a text begin with a vowel. Copied into ``tasks/``."""

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.tasks.base import Task


@dataclass(frozen=True, kw_only=True)
class TaggingTask(Task):
    """A text in, a tag for each of its tokens out."""

    kind = "tagging"
    verb = "tag"
    example = "vowels"

    text: str  # column

    def texts(self, pair: str | None) -> Mapping[str, tuple[str, ...]]:
        return {"text": (self.text,)}

    @property
    def shape(self) -> str:
        return f"a tag for each token of {self.text}"


VOWELS = TaggingTask(name="vowels", title="Words that begin with a vowel", text="words")
