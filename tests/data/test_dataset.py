"""From raw rows to batches: checks, caps, held-out rows, tokens, the sample, the faults a file can have."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from finetune import objectives
from finetune.data import dataset, sources
from finetune.data.encoding import tokenize
from finetune.data.synthetic import CLASSES, PAIRS, STORIES, Sample
from finetune.errors import UserError
from finetune.tasks import TASKS
from finetune.tasks.base import ClassificationTask, Task, TranslationTask
from tests.support.configurations import data_config
from tests.support.records import run_config
from tests.support.row_files import MAIL, TALK

CONFIG = data_config()


def sample_of(task: Task) -> Sample:
    return objectives.get(task.kind).sample


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared rows go to a folder of the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def mail_rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"subject": f"subject {i}", "body": f"the body of {i}", "kind": i % 3}
        for i in range(start, start + count)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def mail_folder(tmp_path: Path, **changes: Any) -> Path:
    """A sound folder of 20 + 7 rows; ``train=...`` replaces rows by number."""
    train, test = mail_rows(20), mail_rows(7, 100)
    for number, row in changes.get("train", {}).items():
        train[number] = {**train[number], **row}
    write_jsonl(tmp_path / "train.jsonl", train)
    write_jsonl(tmp_path / "test.jsonl", test)
    return tmp_path


def load(folder: Path, task: Any = MAIL, pair: str | None = None, **changes: Any) -> dataset.Data:
    config = dataclasses.replace(CONFIG, **changes)
    return dataset.load(task, pair, sources.resolve(task, pair, str(folder)), config)


def test_canonical_columns_and_info(tmp_path: Path) -> None:
    loaded = load(mail_folder(tmp_path))
    assert {name: len(split) for name, split in loaded.splits.items()} == {
        "train": 17,
        "validation": 3,
        "test": 7,
    }
    first = loaded.splits["test"][0]
    assert first == {"row": 0, "text": "subject 100 the body of 100", "label": 1}
    assert json.loads(json.dumps(loaded.info)) == loaded.info
    assert loaded.info["splits"]["validation"]["from"] == "train"
    assert loaded.info["label_names"] == ["ham", "spam", "other"]
    assert loaded.info["sample"] is False
    assert loaded.info["dropped_empty"] == {"train": 0, "test": 0}


def test_held_out_rows_never_meet_train_whatever_the_cap(tmp_path: Path) -> None:
    folder = mail_folder(tmp_path)
    whole, capped = load(folder), load(folder, train_rows=6, test_rows=2)
    rows = {name: set(split["row"]) for name, split in whole.splits.items()}
    assert rows["train"] | rows["validation"] == set(range(20))
    assert not rows["train"] & rows["validation"]
    assert set(capped.splits["validation"]["row"]) == rows["validation"]
    assert set(capped.splits["train"]["row"]) < rows["train"]
    assert len(capped.splits["train"]) == 6
    assert len(capped.splits["test"]) == 2
    assert list(capped.splits["train"]["row"]) == sorted(capped.splits["train"]["row"])


def test_the_same_settings_choose_the_same_rows_and_another_seed_others(tmp_path: Path) -> None:
    folder = mail_folder(tmp_path)
    prints = [load(folder, train_rows=6, split_seed=seed).info["splits"] for seed in (5, 5, 6)]
    assert prints[0] == prints[1]
    assert prints[0]["train"]["fingerprint"] != prints[2]["train"]["fingerprint"]
    assert prints[0]["test"] == prints[2]["test"]


def test_fingerprint_sees_every_change(tmp_path: Path) -> None:
    before = load(mail_folder(tmp_path / "a"))
    after = load(mail_folder(tmp_path / "b", train={4: {"kind": 2}}))
    assert before.info["splits"]["test"] == after.info["splits"]["test"]
    train = [loaded.info["splits"]["train"]["fingerprint"] for loaded in (before, after)]
    held = [loaded.info["splits"]["validation"]["fingerprint"] for loaded in (before, after)]
    assert train[0] != train[1] or held[0] != held[1]


def test_label_names_instead_of_numbers(tmp_path: Path) -> None:
    rows = [{**row, "kind": MAIL.labels[row["kind"]]} for row in mail_rows(20)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", rows[:5])
    assert load(tmp_path).splits["test"]["label"][:5] == [0, 1, 2, 0, 1]
    write_jsonl(tmp_path / "test.jsonl", [*rows[:5], {**rows[0], "kind": "spamm"}])
    with pytest.raises(UserError, match=r"row 5 of column 'kind' of split 'test'.*did you mean 'spam'"):
        load(tmp_path)


def test_one_empty_part_is_no_empty_text(tmp_path: Path) -> None:
    loaded = load(mail_folder(tmp_path, train={0: {"subject": "  "}, 1: {"body": None}}), validation_rows=1)
    texts = dict(zip(loaded.splits["train"]["row"], loaded.splits["train"]["text"], strict=True))
    texts |= dict(zip(loaded.splits["validation"]["row"], loaded.splits["validation"]["text"], strict=True))
    assert (texts[0], texts[1]) == ("the body of 0", "subject 1")


def test_empty_texts_stop_or_are_dropped(tmp_path: Path) -> None:
    folder = mail_folder(
        tmp_path, train={4: {"subject": "", "body": " \t"}, 9: {"subject": None, "body": ""}}
    )
    with pytest.raises(
        UserError, match=r"'train' has 2 rows with an empty text, the first is row 4.*drop_empty"
    ):
        load(folder)
    loaded = load(folder, drop_empty=True)
    assert loaded.info["dropped_empty"] == {"train": 2, "test": 0}
    rows = set(loaded.splits["train"]["row"]) | set(loaded.splits["validation"]["row"])
    assert rows == set(range(20)) - {4, 9}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"subject": "a", "body": "b", "kind": 3}], r"label 3 in row 0 .* labels 0 to 2"),
        ([{"subject": "a", "body": "b", "kind": -1}], "label -1 in row 0"),
        ([{"subject": "a", "body": "b", "kind": i} for i in (1, 2, 3)], "counted from 1: subtract 1"),
        ([{"subject": "a", "body": "b", "kind": 0.5}], "has the label 0.5 in row 0 .* labels 0 to 2"),
        ([{"subject": "a", "body": "b", "kind": True}], "unknown label .row 0 .*'True'"),
        (
            [{"subject": "a", "body": "b", "kind": i} for i in (1, None)],
            "has no label in row 1",
        ),
        ([{"subject": "a", "body": "b"}], "no column 'kind'; task 'mail' needs 'subject', 'body', 'kind'"),
        ([{"subject": "a", "kind": 1}], "no column 'body'"),
        (
            [{"subject": "a", "body": 5, "kind": 1}],
            r"column 'body' of split 'test' holds int64, not text: row 0 ",
        ),
        ([{"subject": "a", "body": ["b"], "kind": 1}], "holds list"),
    ],
)
def test_faulty_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    folder = mail_folder(tmp_path)
    write_jsonl(folder / "test.jsonl", rows)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_csv_keeps_words_that_look_like_missing_values(tmp_path: Path) -> None:
    body = "".join(f"NA,null {i},{i % 3}\n" for i in range(9))
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("subject,body,kind\n" + body, encoding="utf-8")
    assert load(tmp_path).splits["test"][2] == {"row": 2, "text": "NA null 2", "label": 2}
    (tmp_path / "test.csv").write_text("subject,body,kind\na,b,1\na,b,\n", encoding="utf-8")
    with pytest.raises(UserError, match="has no label in row 1"):
        load(tmp_path)


@pytest.mark.parametrize("layout", ["train-0000{}-of-00002.parquet", "train/000{}.parquet"])
def test_shards_in_order(tmp_path: Path, layout: str) -> None:
    for shard in (0, 1):
        path = tmp_path / layout.format(shard)
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_list(mail_rows(10, 10 * shard)).to_parquet(path)
    datasets.Dataset.from_list(mail_rows(4)).to_parquet(tmp_path / "test.parquet")
    datasets.Dataset.from_list(mail_rows(5)).to_parquet(tmp_path / "valid.parquet")
    loaded = load(tmp_path)
    assert list(loaded.splits["train"]["text"]) == [f"subject {i} the body of {i}" for i in range(20)]
    assert loaded.info["splits"]["validation"] | {"fingerprint": ""} == {
        "rows": 3, "of": 5, "from": "validation", "fingerprint": ""
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("test.parquet", b"PAR1 but not really PAR1", r"cannot read .*test\.parquet as parquet"),
        ("test.parquet", b"", "is empty"),
        ("test.csv", b"", "is empty"),
        ("test.csv", b"subject,body,kind\na,b,1\na,b,1,2,3\n", r"cannot read .*test\.csv as csv"),
        ("test.csv", b"subject,body,kind\n", r"test\.csv as csv: it has a header and no rows"),
        ("test.csv", b"\xff\xfe\xfa,body,kind\na,b,1\n", r"cannot read .*test\.csv as csv"),
        ("test.jsonl", b'{"subject": "a", "body": \n', r"cannot read .*test\.jsonl as jsonl"),
        ("test.jsonl", b'{"subject": "a", "body": "b", "kind": 1}\n{"subject": 3, "body": "b", "kind": 1}\n',
         r"column 'subject' holds values of several types: line 1 has str, line 2 has '3'"),
    ],
)  # fmt: skip
def test_broken_files_are_one_sentence(tmp_path: Path, name: str, contents: bytes, message: str) -> None:
    folder = mail_folder(tmp_path)
    (folder / "test.jsonl").unlink()
    (folder / name).write_bytes(contents)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_missing_split_says_what_is_needed_and_what_is_there(tmp_path: Path) -> None:
    folder = mail_folder(tmp_path)
    (folder / "test.jsonl").rename(folder / "exam.jsonl")
    with pytest.raises(
        UserError, match=r"no test split; it needs test\.parquet.*it holds exam\.jsonl, train\.jsonl"
    ):
        load(folder)


def test_a_split_in_two_formats_is_ambiguous(tmp_path: Path) -> None:
    folder = mail_folder(tmp_path)
    (folder / "train.csv").write_text("subject,body,kind\na,b,1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"one split more than once, in several formats: .*train\.jsonl"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"validation_rows": 20},
            "nothing is left to train on: set it to [0-9]+ at most, or give validation",
        ),
    ],
)
def test_impossible_sizes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(mail_folder(tmp_path), **changes)


def talk_folder(tmp_path: Path) -> Path:
    for name, count in (("train", 9), ("test", 4), ("validation", 4)):
        rows = [{"translation": {"de": f"das ist {i}", "en": f"this is {i} {name}"}} for i in range(count)]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return tmp_path


def test_translation_in_both_directions(tmp_path: Path) -> None:
    folder = talk_folder(tmp_path)
    assert load(folder, TALK, "de-en").splits["test"][1] == {
        "row": 1, "source": "das ist 1", "target": "this is 1 test"
    }  # fmt: skip
    assert load(folder, TALK, "en-de").splits["test"][1]["target"] == "das ist 1"
    train = load(folder, TALK, "de-en").splits["train"]
    assert next(dataset.training_texts(train, ["source", "target"])) == "das ist 0"


def test_translation_from_columns_side_by_side(tmp_path: Path) -> None:
    for name in ("train", "test", "validation"):
        (tmp_path / f"{name}.csv").write_text("de,en\neins,one\nzwei,two\n", encoding="utf-8")
    assert load(tmp_path, TALK, "de-en").splits["test"][1] == {"row": 1, "source": "zwei", "target": "two"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"translation": {"de": "a", "fr": "b"}}], "no language 'en'; it has de, fr"),
        ([{"translation": "a"}], r"holds string, not \{language: text\}"),
        ([{"sentence": "a"}], "neither a column 'translation' nor one called 'de'"),
        ([{"translation": {"de": "a", "en": " "}}], "split 'test' has 1 rows with an empty text"),
        (
            [{"translation": {"de": "a", "en": 4}}],
            r"'en' in column 'translation' is not text: line 1 has '4'",
        ),
    ],
)
def test_faulty_translations_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    folder = talk_folder(tmp_path)
    write_jsonl(folder / "test.jsonl", rows)
    with pytest.raises(UserError, match=message):
        load(folder, TALK, "de-en")


def tokenizer_for(texts: list[str]) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "</s>"]
    inner.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )


def test_tokens_are_cut_and_keep_their_order(tmp_path: Path) -> None:
    rows = [{"subject": "s", "body": "word " * (i % 11 + 1), "kind": i % 3} for i in range(20)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "test.jsonl", rows[:7])
    splits = load(tmp_path).splits
    tokenizer = tokenizer_for(list(dataset.training_texts(splits["train"], ["text"])))
    encoded = tokenize(
        splits, tokenizer, objectives.get("classification"), run_config(data=dataclasses.asdict(CONFIG))
    )
    assert set(encoded["test"].column_names) == {"row", "input_ids", "attention_mask", "labels"}
    assert [len(ids) for ids in encoded["test"]["input_ids"]] == [2, 3, 4, 5, 6, 7, 7]
    assert list(encoded["test"]["labels"]) == [0, 1, 2, 0, 1, 2, 0]
    for name, split in splits.items():
        assert list(encoded[name]["row"]) == list(split["row"])


def test_translations_are_cut_at_their_own_limit(tmp_path: Path) -> None:
    splits = load(talk_folder(tmp_path), TALK, "de-en").splits
    tokenizer = tokenizer_for(list(dataset.training_texts(splits["train"], ["source", "target"])))
    for limit, length in ((4, 4), (None, 3)):
        data = dataclasses.asdict(CONFIG) | {"max_length": 3, "max_target_length": limit}
        config = run_config(kind="translation", data=data)
        rows = tokenize(splits, tokenizer, objectives.get("translation"), config)["train"]
        assert {len(ids) for ids in rows["input_ids"]} == {3}
        assert {len(ids) for ids in rows["labels"]} == {length}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_sample_serves_every_task(name: str) -> None:
    task = TASKS[name]
    pair = task.default_pair if isinstance(task, TranslationTask) else None
    loaded = dataset.load(task, pair, sources.resolve(task, pair, "sample"), CONFIG, sample_of(task))
    assert loaded.info["sample"] is True
    assert loaded.info["kind"] == "sample"
    train, test = loaded.splits["train"], loaded.splits["test"]
    text = "text" if pair is None else "source"
    assert not set(train[text]) & set(test[text])
    assert not set(loaded.splits["validation"][text]) & set(test[text])
    if isinstance(task, ClassificationTask):
        assert set(train["label"]) == set(range(len(task.labels)))


def test_the_sample_serves_a_users_task() -> None:
    loaded = dataset.load(MAIL, None, sources.resolve(MAIL, None, "sample"), CONFIG, CLASSES)
    assert len(loaded.splits["test"]) == CLASSES.sizes["test"]


@pytest.mark.parametrize(("name", "digest"), [("agnews", "6b82f212f887"), ("multi30k", "8e44811fc4eb")])
def test_the_sample_does_not_change_unnoticed(name: str, digest: str) -> None:
    """Where this fails on purpose, raise the number in the sample's seed and mend the digest."""
    rows = json.dumps(sample_of(TASKS[name]).rows(TASKS[name], None, "train", 200))
    assert hashlib.sha256(rows.encode()).hexdigest()[:12] == digest


def test_the_sample_is_the_same_in_every_process() -> None:
    """Not seeded through hash(), which differs from process to process."""
    program = (
        "from finetune import objectives; from finetune.tasks import TASKS; task = TASKS['{}']; "
        "print(objectives.get(task.kind).sample.rows(task, None, 'test', 3))"
    )
    for name in ("yahoo", "multi30k"):
        printed = subprocess.run(
            [sys.executable, "-c", program.format(name)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.strip() == str(sample_of(TASKS[name]).rows(TASKS[name], None, "test", 3))


@pytest.mark.parametrize(
    ("name", "low", "high"), [("agnews", 0.85, 0.95), ("dbpedia", 0.8, 0.95), ("yelp-polarity", 0.85, 0.98)]
)
def test_the_sample_is_learnable_but_not_trivially(name: str, low: float, high: float) -> None:
    """A linear model on words and word pairs neither fails nor reaches 100%."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    task = TASKS[name]
    assert isinstance(task, ClassificationTask)
    texts, labels = {}, {}
    for split, count in (("train", 3000), ("test", 1000)):
        rows = CLASSES.rows(task, None, split, count)
        texts[split] = [" ".join(row[column] for column in task.text) for row in rows]
        labels[split] = [row[task.label] for row in rows]
    vectors = TfidfVectorizer(ngram_range=(1, 2))
    model = LinearSVC(C=0.5).fit(vectors.fit_transform(texts["train"]), labels["train"])
    assert low < model.score(vectors.transform(texts["test"]), labels["test"]) < high


def test_sample_sentences_reorder_and_agree() -> None:
    rows = PAIRS.rows(TASKS["multi30k"], "de-en", "train", 4000)
    lengths = {side: [len(row["translation"][side].split()) for row in rows] for side in ("de", "en")}
    assert lengths["de"] == lengths["en"]
    assert min(lengths["de"]) >= 3 and max(lengths["de"]) <= 13
    words = {
        side: {word for row in rows for word in row["translation"][side].rstrip(".").split()}
        for side in ("de", "en")
    }
    assert all(100 < len(found) < 250 for found in words.values())
    assert rows == PAIRS.rows(TASKS["multi30k"], "en-de", "train", 4000)


def test_a_story_asks_for_those_whom_it_has_introduced() -> None:
    """By their trade or their town, which in another story are another's."""
    asked = 0
    for row in STORIES.rows(TASKS["books"], None, "train", 30):
        sentences = [sentence.strip() for sentence in row["text"].removesuffix(".").split(".")]
        people = [
            words for sentence in sentences if len(words := sentence.split()) == 6 and "?" not in sentence
        ]
        told = {(people[0][1], name): (trade, town) for name, _, _, trade, _, town in people}
        names = {name for _, name in told}
        for sentence in sentences:
            question, mark, answer = sentence.partition("? ")
            if mark:
                asked += 1
                assert answer in names
                assert question.split()[-1] in told[people[0][1], answer]
    assert asked > 200
