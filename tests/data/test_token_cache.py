"""The cache of tokenized rows: what shares an entry and what never does, and what a disk can do to it."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from finetune import objectives
from finetune.config.schema import RunConfig
from finetune.data import token_cache, windows
from finetune.data.dataset import Data, fingerprint
from finetune.data.encoding import tokenize
from finetune.models.scratch import BERT, MARIAN, train_tokenizer
from finetune.system.cache import cache_folder
from finetune.tasks import TASKS
from tests.support.records import run_config

WORDS = ["<pad>", "<unk>", "</s>", "a", "b", "c", "d", "A"]
TEXTS = ["a b c d", "b", "a a A", "c d a b b", "d"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and nothing in memory."""
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    token_cache._held.clear()
    token_cache._warned.clear()
    return tmp_path / "cache"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the splits that were tokenized, as it happens."""
    names: list[str] = []

    def spy(splits: Any, *arguments: Any) -> Any:
        names.extend(splits)
        return tokenize(splits, *arguments)

    monkeypatch.setattr(token_cache, "tokenize", spy)
    return names


def tokenizer(frame: str = "$A </s>", **options: Any) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.normalizer = normalizers.Lowercase() if options.pop("lowercase", False) else None
    inner.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", **options
    )


def loaded(kind: str = "classification", train: dict[str, Any] | None = None) -> Data:
    """Three splits of five rows; ``train`` replaces columns of the first."""
    texts: dict[str, list[Any]] = {"text": TEXTS, "label": [0, 1, 2, 0, 1]}
    if kind == "translation":
        texts = {"source": TEXTS, "target": TEXTS[::-1]}
    splits = {}
    for start, name in enumerate(("train", "validation", "test")):
        columns = {"row": list(range(start, start + 5)), **texts, **((train or {}) if not start else {})}
        splits[name] = Dataset.from_dict(columns)
    info = {"splits": {name: {"fingerprint": fingerprint(split)} for name, split in splits.items()}}
    return Data(splits, info, TASKS["agnews" if kind == "classification" else "multi30k"])


def config(kind: str = "classification", **over: Any) -> RunConfig:
    return run_config(kind=kind, **over)


def prepare(loaded: Data, tokenizer: Any, config: RunConfig) -> dict[str, Dataset]:
    return token_cache.prepare(loaded, tokenizer, objectives.of(config), config)


def contents(splits: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {name: list(rows) for name, rows in splits.items()}


def entries(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir())


@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_the_cache_gives_back_what_was_made(own_cache: Path, made: list[str], kind: str) -> None:
    plain = prepare(loaded(kind), tokenizer(), config(kind, batches={"cache_tokens": False}))
    assert not own_cache.exists()
    first = prepare(loaded(kind), tokenizer(), config(kind))
    held = prepare(loaded(kind), tokenizer(), config(kind))
    token_cache._held.clear()
    from_disk = prepare(loaded(kind), tokenizer(), config(kind))
    assert made == ["train", "validation", "test"] * 2
    assert contents(plain) == contents(first) == contents(held) == contents(from_disk)
    assert plain["train"].features == from_disk["train"].features
    assert len(entries(own_cache)) == 3
    assert all(rows.cache_files for rows in from_disk.values())  # mapped, not copied into memory


def test_rows_are_kept_from_other_users(own_cache: Path, made: list[str]) -> None:
    """Unless somebody has made the folder for several."""
    prepare(loaded(), tokenizer(), config())
    (folder,) = own_cache.glob("**/tokens")
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o750)
    prepare(loaded(train={"label": [2, 2, 2, 2, 2]}), tokenizer(), config())
    assert folder.stat().st_mode & 0o777 == 0o750


def test_the_same_grid_does_not_read_twice(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(loaded(), tokenizer(), config())
    monkeypatch.setattr(token_cache, "_read", lambda *_: pytest.fail("read again"))
    prepare(loaded(), tokenizer(), config())
    assert len(made) == 3


def test_variant_seed_and_sorting_share_an_entry(own_cache: Path, made: list[str]) -> None:
    for variant, seed, ordered in (("softmax", 0, True), ("sa-softmax", 1, False), ("sa-softmax", 0, True)):
        chosen = config(variant=variant, seed=seed, batches={"sort_evaluation": ordered})
        found = prepare(loaded(), tokenizer(), chosen)
        token_cache._held.clear()
        assert list(found["train"]["row"]) == [0, 1, 2, 3, 4]
        assert list(found["test"]["row"]) == ([5, 2, 4, 3, 6] if ordered else [2, 3, 4, 5, 6])
    assert len(made) == len(entries(own_cache)) == 3


CHANGES: dict[str, dict[str, Any]] = {
    "max_length": {"config": config(data={"max_length": 4})},
    "vocabulary": {"tokenizer": train_tokenizer(BERT.recipe, iter(TEXTS), 300)},
    "frame": {"tokenizer": tokenizer("</s> $A </s>")},
    "normaliser": {"tokenizer": tokenizer(lowercase=True)},
    "side of the cut": {"tokenizer": tokenizer(truncation_side="left")},
    "format": {"FORMAT": 99},
    "library": {"versions": lambda: dict.fromkeys(token_cache.LIBRARIES, "0.1")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_settings_never_share_an_entry(
    made: list[str], monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    prepare(loaded(), tokenizer(), config())
    changes = dict(CHANGES[change])
    changed, chosen = changes.pop("tokenizer", tokenizer()), changes.pop("config", config())
    for name, value in changes.items():
        monkeypatch.setattr(token_cache, name, value)
    found = prepare(loaded(), changed, chosen)
    assert made == ["train", "validation", "test"] * 2
    plain = config(data={"max_length": chosen.data.max_length}, batches={"cache_tokens": False})
    assert contents(found) == contents(prepare(loaded(), changed, plain))


@pytest.mark.parametrize(
    "train",
    [
        {"text": ["a b c d", "b", "a a A", "c d a b b", "c"]},
        {"label": [0, 1, 2, 0, 2]},
        {"row": [0, 1, 2, 3, 9]},
        {"row": [0, 1], "text": TEXTS[:2], "label": [0, 1]},
    ],
    ids=["text", "label", "row", "fewer"],
)
def test_other_rows_never_share_an_entry(made: list[str], train: dict[str, Any]) -> None:
    prepare(loaded(), tokenizer(), config())
    found = prepare(loaded(train=train), tokenizer(), config())
    assert made == ["train", "validation", "test", "train"]  # the other two splits are the same
    assert list(found["train"]["row"]) == train.get("row", [0, 1, 2, 3, 4])
    assert list(found["train"]["labels"]) == train.get("label", [0, 1, 2, 0, 1])


def test_targets_and_the_language_are_part_of_an_entry(made: list[str]) -> None:
    told = tokenizer()
    for number, limit in enumerate((6, 3, None), start=1):
        chosen = config("translation", data={"max_length": 8, "max_target_length": limit})
        prepare(loaded("translation"), told, chosen)
        assert len(made) == 3 * number
    told.src_lang = "de_DE"
    prepare(loaded("translation"), told, chosen)
    assert len(made) == 12


@pytest.mark.slow
def test_a_tokenizer_has_one_fingerprint_wherever_it_is_used(tmp_path: Path) -> None:
    """Before and after a call (which leaves its settings behind), saved and loaded, in another process."""
    trained = train_tokenizer(MARIAN.recipe, iter(TEXTS * 9), 280)
    first = token_cache.tokenizer_fingerprint(trained)
    trained(["a b"], truncation=True, max_length=3)
    trained.pad([{"input_ids": [1]}, {"input_ids": [1, 2]}])
    assert token_cache.tokenizer_fingerprint(trained) == first
    program = (
        "from finetune.data.token_cache import tokenizer_fingerprint; "
        "from finetune.models.scratch import MARIAN, train_tokenizer; "
        f"print(tokenizer_fingerprint(train_tokenizer(MARIAN.recipe, iter({TEXTS!r} * 9), 280)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first


def cut_short(folder: Path) -> None:
    content = (folder / token_cache.ROWS).read_bytes()
    (folder / token_cache.ROWS).write_bytes(content[: len(content) // 2])


def one_bit(folder: Path) -> None:
    """Of a token's number: the file can still be read, and a digest alone knows."""
    content = bytearray((folder / token_cache.ROWS).read_bytes())
    numbers = b"".join(WORDS.index(word).to_bytes(4, "little") for word in TEXTS[0].split())
    content[content.index(numbers)] ^= 1
    (folder / token_cache.ROWS).write_bytes(content)


def other_facts(folder: Path) -> None:
    about = json.loads((folder / token_cache.ABOUT).read_text())
    (folder / token_cache.ABOUT).write_text(json.dumps({**about, "max_length": 5}))


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        one_bit,
        other_facts,
        lambda folder: (folder / token_cache.ROWS).unlink(),
        lambda folder: (folder / token_cache.ABOUT).unlink(),
        lambda folder: (folder / token_cache.ABOUT).write_bytes(b'{"format": \xff'),
        lambda folder: (folder / token_cache.ABOUT).write_text("[]"),
    ],
    ids=["cut short", "one bit", "other facts", "no rows", "no facts", "no text", "no mapping"],
)
def test_a_damaged_entry_is_made_anew_and_that_is_warned_once(
    own_cache: Path, made: list[str], caplog: pytest.LogCaptureFixture, damage: Callable[[Path], Any]
) -> None:
    expected = contents(prepare(loaded(), tokenizer(), config()))
    kept = {file: file.read_bytes() for folder in entries(own_cache) for file in folder.iterdir()}
    token_cache._held.clear()
    damage(entries(own_cache)[1])
    assert contents(prepare(loaded(), tokenizer(), config())) == expected
    assert len(made) == 4
    assert caplog.text.count("damaged and are made anew") == 1
    assert {file: file.read_bytes() for folder in entries(own_cache) for file in folder.iterdir()} == kept
    token_cache._held.clear()
    prepare(loaded(), tokenizer(), config())
    assert len(made) == 4


@pytest.mark.parametrize("moment", ["while we write", "while we rename"])
def test_another_process_may_be_quicker(
    own_cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its entry is taken, and left where it is; nothing of ours stays beside it."""
    prepare(loaded(), tokenizer(), config())
    theirs = own_cache.rename(own_cache.with_name("theirs")) / "tokens"
    token_cache._held.clear()

    def appear() -> None:
        for entry in theirs.iterdir():
            shutil.copytree(entry, own_cache / "tokens" / entry.name, dirs_exist_ok=True)

    write, rename = token_cache._write, Path.rename

    def slow_write(*arguments: Any) -> None:
        write(*arguments)
        appear()

    def slow_rename(self: Path, target: Path) -> Path:
        try:
            return rename(self, target)
        except FileNotFoundError:  # there was nothing to move out of the way
            appear()
            raise

    if moment == "while we write":
        monkeypatch.setattr(token_cache, "_write", slow_write)
        monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("their entry was moved"))
    else:
        monkeypatch.setattr(Path, "rename", slow_rename)
    found = contents(prepare(loaded(), tokenizer(), config()))
    monkeypatch.undo()
    assert found == contents(prepare(loaded(), tokenizer(), config(batches={"cache_tokens": False})))
    assert [entry.name for entry in entries(own_cache)] == sorted(entry.name for entry in theirs.iterdir())
    assert not caplog.text


@pytest.mark.parametrize("fault", ["a file in the way", "read-only", "full"])
def test_a_cache_that_cannot_be_written_is_done_without(
    own_cache: Path,
    made: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    if fault == "a file in the way":
        own_cache.write_text("")
    else:
        number = {"read-only": 30, "full": 28}[fault]

        def refuse(folder: Path, *_: Any) -> None:
            (folder / token_cache.ROWS).write_text("half")
            raise OSError(number, "what the system says")

        monkeypatch.setattr(token_cache, "_write", refuse)
    expected = contents(prepare(loaded(), tokenizer(), config(batches={"cache_tokens": False})))
    for _ in range(2):
        assert contents(prepare(loaded(), tokenizer(), config())) == expected
    assert made == ["train", "validation", "test"] * 2  # once without, once for the two calls with
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    assert "cannot be kept in" in caplog.text and "FINETUNE_CACHE" in caplog.text
    assert fault == "a file in the way" or not entries(own_cache)


def test_without_a_temporary_folder_rows_are_not_kept(
    own_cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(token_cache, "TemporaryDirectory", refuse)
    assert len(prepare(loaded(), tokenizer(), config())["train"]) == 5
    assert "not kept: no usable temporary directory" in caplog.text and not own_cache.exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/someone")
    monkeypatch.setenv("FINETUNE_CACHE", "~/kept")
    assert cache_folder() == Path("/someone/kept")
    monkeypatch.setenv("FINETUNE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/finetune")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/someone/.cache/finetune")


def test_what_rows_say_of_themselves_is_kept_with_them(own_cache: Path) -> None:
    """Counts of windows, which nobody could tell from the rows."""
    each = windows.Documents.of([[1, 2, 3, 4, 5], [6, 7]])
    rows = windows.train(each, 0, 3, 1)
    kept = token_cache._keep(own_cache / "tokens" / "entry", {"format": 0}, rows)
    assert kept.to_dict() == rows.to_dict()
    assert windows.counts(kept) == windows.counts(rows)
    assert windows.counts(kept)["dropped_tokens"] == 2
    assert windows.counts(kept.select([0])) == windows.counts(rows)
