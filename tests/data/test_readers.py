"""What a user's files can be: formats x packings x encodings x label forms, and every way to be wrong."""

import gzip
import io
import json
import lzma
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data import files
from finetune.errors import UserError
from tests.support.row_files import (
    CARD,
    FEATURES,
    PACKERS,
    STARS,
    TALK,
    TEXTS,
    WRITERS,
    Rows,
    columnar,
    delimited,
    ipc,
    notes_of,
    put,
    read,
    rows_of,
    zipped,
)


def joined(rows: Rows) -> list[str]:
    return [f"{row['subject']} {row['body']}" for row in rows]


def test_an_arrow_stream_is_read_to_its_mark(tmp_path: Path) -> None:
    """A writer that is killed between two batches leaves whole messages, and fewer rows."""
    table = pa.table({name: [row[name] for row in rows_of([0, 1])] for name in ("subject", "body", "kind")})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
        cut = sink.tell()
        writer.write_table(table)
    whole = sink.getvalue().to_pybytes()
    put(tmp_path, "{}.arrow", whole)
    assert read(tmp_path).tables["train"].num_rows == 2 * len(TEXTS)
    put(tmp_path, "{}.arrow", whole[:cut])
    with pytest.raises(UserError, match="lacks the mark of its end"):
        read(tmp_path)


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_rows_and_is_recorded(tmp_path: Path, form: str, packing: str) -> None:
    rows = rows_of([2, 0, 1])
    content = PACKERS[packing](WRITERS[form](rows))
    raw = read(put(tmp_path, f"{{}}.{form}{packing}", content))
    assert raw.tables["train"]["text"].to_pylist() == joined(rows)
    assert raw.tables["train"]["label"].to_pylist() == [row["kind"] for row in rows]
    facts = {entry["name"]: entry["bytes"] for entry in raw.files}
    assert facts == {f"{split}.{form}{packing}": len(content) for split in ("train", "test")}
    assert {len(entry["sha256"]) for entry in raw.files} == {64}
    if packing:
        put(tmp_path, f"{{}}.{form}{packing}", content[: len(content) // 2])
        with pytest.raises(UserError, match="cannot unpack"):
            read(tmp_path)


LABELS: dict[str, list[Any]] = {
    "numbers": [2, 0, 1],
    "texts of numbers": ["2", "0", "1"],
    "floats": [2.0, 0.0, 1.0],
    "texts of floats": ["2.0", "0.0", "1.0"],
    "names": ["other", "ham", "spam"],
    "names in other cases": [" Other", "HAM ", "spam"],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("form", WRITERS)
def test_a_label_is_the_same_in_every_format(tmp_path: Path, form: str, labels: list[Any]) -> None:
    raw = read(put(tmp_path, f"{{}}.{form}", WRITERS[form](rows_of(labels))))
    assert raw.tables["test"]["label"].to_pylist()[:3] == [2, 0, 1]


@pytest.mark.parametrize(
    "labels", [[True, False], [0.5, 1.0], [1, 2, 3], [3], [-1], ["spamm"], ["2\n2"], ["", "ham"]]
)
@pytest.mark.parametrize("form", WRITERS)
def test_a_wrong_label_is_refused_in_every_format(tmp_path: Path, form: str, labels: list[Any]) -> None:
    with pytest.raises(UserError, match=r"row \d.*|counted from 1") as caught:
        read(put(tmp_path, f"{{}}.{form}", WRITERS[form](rows_of(labels))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[5, 1, 2], ["5", "1", "2"], [5.0, 1.0, 2.0]])
@pytest.mark.parametrize("form", WRITERS)
def test_names_that_are_numbers_are_names_in_every_format(
    tmp_path: Path, form: str, labels: list[Any]
) -> None:
    rows = [{"text": f"t{i}", "stars": label} for i, label in enumerate(labels)]
    raw = read(put(tmp_path, f"{{}}.{form}", WRITERS[form](rows)), STARS)
    assert raw.tables["test"]["label"].to_pylist() == [4, 0, 1]


def test_numbers_from_zero_are_read_alike_in_every_split(tmp_path: Path) -> None:
    """A test split without the number 0 must not be taken for names."""
    rows = [{"text": f"t{i}", "stars": i} for i in range(5)]
    put(tmp_path, "{}.jsonl", WRITERS["jsonl"](rows), WRITERS["jsonl"](rows[1:]))
    assert read(tmp_path, STARS).tables["test"]["label"].to_pylist() == [1, 2, 3, 4]


def test_labels_without_a_training_row_are_told(tmp_path: Path) -> None:
    """Numbers from 1 that lack the last one stay in the range of numbers from 0."""
    put(tmp_path, "{}.csv", WRITERS["csv"](rows_of([1, 2])))
    assert notes_of(read(tmp_path)) == ["train has no row with the label ham"]
    put(tmp_path, "{}.csv", WRITERS["csv"](rows_of([1])))
    assert notes_of(read(tmp_path)) == ["train has no row with the labels ham, other"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_text_files_in_every_encoding(tmp_path: Path, form: str, encoding: str, end: str) -> None:
    rows = rows_of([2, 0, 1], ["Grüße", "☃", "plain"])
    text = WRITERS[form](rows).decode().replace("\r\n", "\n") + "\n"
    content = text.replace("\n", end).encode(encoding)
    assert read(put(tmp_path, f"{{}}.{form}", content)).tables["train"]["text"].to_pylist() == joined(rows)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_another_encoding_is_refused_with_its_line(tmp_path: Path, form: str) -> None:
    rows = rows_of([0], ["plain", "Grüße"])
    text = json.dumps(rows, ensure_ascii=False) if form == "json" else None
    text = text or (
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        if form == "jsonl"
        else WRITERS[form](rows).decode()
    )
    with pytest.raises(UserError, match=r"line \d is not UTF-8 .byte 0xfc.*iconv"):
        read(put(tmp_path, f"{{}}.{form}", text.encode("latin-1")))


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json"])
def test_utf_16_without_its_mark_or_its_end_is_refused(tmp_path: Path, form: str) -> None:
    text = WRITERS[form](rows_of([0, 1, 2])).decode()
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        with pytest.raises(UserError, match=r"begins with bytes of zero.*iconv"):
            read(put(tmp_path, f"{{}}.{form}", text.encode(encoding)))
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(UserError, match=f"begins as {encoding.upper()} and does not go on so"):
            read(put(tmp_path, f"{{}}.{form}", text.encode(encoding)[:-1]))


HEADER = "subject,body,kind\n"
SOUND = {
    "semicolons": "subject;body;kind\na;b,c;1\n",
    "a delimiter at the end of each line": "subject,body,kind\na,b,1,\nc,d,2,\n",
    "and of the header": "subject,body,kind,\na,b,1\nc,d,2\n",
    "an index and other columns": ",subject,extra,body,kind\n0,a,,b,1\n1,c,,d,2\n",
    "blank lines": HEADER + "\na,b,1\n\n   \nc,d,2\n\n",
    "old line ends": "subject,body,kind\ra,b,1\r",
    "no line end": HEADER + "a,b,1",
    "all quoted, between semicolons": '"subject";"body";"kind"\n"a";"b,c";"1"\n',
    "all quoted, between tabs": '"subject"\t"body"\t"kind"\n"a"\t"b,c"\t"1"\n',
    "all quoted": '"subject","body","kind"\n"a","b","1"\n',
    "a text of several lines": HEADER + 'a,"b\nc, 5\nd",1\nc,d,2\n',
    "blank lines behind a carriage return": (HEADER + "a,b,1\nc,d,2\n").replace("\n", "\r\r\n"),
    "a greeting": HEADER + 'a,"b, dear\nyours, d",1\nc,d,2\n',
    "quotes inside": HEADER + 'a,b "c" d,1\n',
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND)
def test_sound_csv(tmp_path: Path, text: str) -> None:
    raw = read(put(tmp_path, "{}.csv", text.encode()))
    notes = [note for note in notes_of(raw) if "no row with the label" not in note]
    assert [note for note in notes if "between its columns stands" not in note] == []
    assert bool(notes) == ("," not in text.splitlines()[0])  # another delimiter is said
    table = raw.tables["train"]
    assert table["label"].to_pylist()[0] == 1
    assert table["text"].to_pylist()[0].startswith("a b")


MANY = [f"a {i},b {i},{i % 3}\n" for i in range(40)]
DAMAGED = {
    "a field more": (HEADER + "a,b,1\na,b,c,1\n", "line 3 has 4 fields and the header 3"),
    "a field more in every row": (HEADER + "x,a,b,1\nx,c,d,2\n", "line 2 has 4 fields and the header 3"),
    "a field fewer": (HEADER + "a,b,1\nb,1\n", "line 3 has 2 fields"),
    "a quote never closed": (
        HEADER + 'a,b,1\na,"b,1\n' + "".join(MANY),
        "line 3: a quote that is never closed",
    ),
    "a stray quote that swallows rows": (
        HEADER + "".join([*MANY[:9], 'a,"b,1\n', *MANY[9:30], 'a,b",1\n', *MANY[30:]]),
        "begins near line 11 runs over 23 lines, and 2. of them are rows",
    ),
    "a stray quote that swallows one row": (
        HEADER + "".join([*MANY[:9], 'a,"b,1\n', 'a,b",1\n', *MANY[9:]]),
        "each of the 2 lines from line 11 on is a row by itself: a quote is missing or stray",
    ),
    "the same with a delimiter at the ends": (
        HEADER + "".join([*MANY[:9], 'a,"b,1\n', 'a,b",1\n', *MANY[9:]]).replace("\n", ",\n"),
        "each of the 2 lines from line 11 on",
    ),
    "no header, and all quoted": (
        '"a","b c","1"\n"c","d","2"\n',
        "no column 'subject'.* the data has 'a', 'b c'",
    ),
    "the same with old line ends": (
        (HEADER + "".join([*MANY[:9], 'a,"b,1\n', 'a,b",1\n', *MANY[9:]])).replace("\n", "\r"),
        "each of the 2 lines from line 11 on",
    ),
    "names and numbers": (HEADER + "a,b,1\na,b,ham\n", "names and numbers: 'ham' in row 1 and 1 in row 0"),
    "a second header": (HEADER + "a,b,1\n" + HEADER, "unknown label .row 1 .* 'kind'"),
    "text after a quote": (HEADER + 'a,"b" c,1\n', "line 2: ',' expected"),
    "a column twice": ("subject,body,body,kind\na,b,c,1\n", "the column 'body' is there 2 times"),
    "no header": ("a,b,1\nc,d,2\n", "no column 'subject'.*has 'a', 'b', '1'.*put the header"),
    "a header in other words": ("Subject,Body,Kind\na,b,1\n", "the data has 'Subject', 'Body', 'Kind'"),
    "a header alone": (HEADER, "a header and no rows"),
    "a blank file": ("\n\n", "no header"),
    "a parquet file": ("PAR1....PAR1", "is not csv: .* a parquet file; rename it to end in .parquet"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
    "a web page": ("<!DOCTYPE html><html></html>", "a web page"),
}


@pytest.mark.parametrize(("text", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_csv_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(put(tmp_path, "{}.csv", text.encode()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"subject": "a", "subject": "b", "body": "", "kind": 1}', "the key 'subject' is there twice"),
        ('{"subject": ["a", "b"], "body": ["a", "b"], "kind": [1, 2]}', "one object of the lists"),
        ('["a", "b"]', "row 0 is 'a', not a row"),
        ('[{"subject": "a"', "cannot read"),
        ("[" * 100_000, "cannot read"),
        ("1\n", "line 1 is '1', not a row"),
        (
            '{"subject": "\\ud800", "body": "b", "kind": 1}',
            "surrogate pair, which is no text, in (row 0|line 1)",
        ),
        ('{"subject": "a", "body": "b", "kind": ' + "9" * 5000 + "}", "unknown label .row 0"),
        ('{"subject": "a", "body": "b", "kind": ' + "9" * 25 + "}", "has the label 10000000+[0-9]+ in row 0"),
        ('{"subject": {"de": "a"}, "body": "b", "kind": 1}', "'subject' holds no text .* has .{'de': 'a'}"),
        ('{"subject": "a", "body": "b", "kind": {"id": 1}}', "'kind' holds no text and no number"),
        ("\n", "no rows"),
    ],
)
def test_damaged_json_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    for form in ("json", "jsonl"):
        with pytest.raises(UserError, match=message) as caught:
            read(put(tmp_path / form, f"{{}}.{form}", text.encode()))
        assert "\n" not in str(caught.value)


def test_quotes_in_tsv_without_quoting_are_text(tmp_path: Path) -> None:
    content = b'subject\tbody\tkind\n"Hello" he said\tb\t1\nx\t"open\t2\n'
    raw = read(put(tmp_path, "{}.tsv", content))
    assert raw.tables["train"]["text"].to_pylist() == ['"Hello" he said b', 'x "open']
    assert "quotes are part of its texts" in raw.notes[0]


@pytest.mark.parametrize(
    "rows",
    [
        ['"Ja\tYes', 'Nein\tNo"'],
        ['"Ja\tYes', "Nein\tNo", 'x"\ty'],
        ['"Ja\tYes', *(f"n{i}\tm{i}" for i in range(40)), 'x\ty"', "z\tw"],
    ],
)
def test_a_quote_swallows_no_rows_of_a_translation_in_tsv(tmp_path: Path, rows: list[str]) -> None:
    raw = read(put(tmp_path, "{}.tsv", "\n".join(["de\ten", *rows]).encode()), TALK, "de-en")
    assert raw.tables["train"]["source"].to_pylist() == [row.split("\t")[0] for row in rows]
    assert "quotes are part of its texts" in raw.notes[0]


def test_a_quote_that_may_swallow_rows_of_a_translation_in_csv_is_told(tmp_path: Path) -> None:
    raw = read(put(tmp_path, "{}.csv", b'de,en\n"Ja,Yes\nNein",No\nx,y\n'), TALK, "de-en")
    assert raw.tables["train"]["source"].to_pylist() == ["Ja,Yes\nNein", "x"]
    assert "each of the 2 lines from line 2 on is a row by itself, and they are read as one" in raw.notes[0]


def test_a_tsv_that_is_quoted_but_for_one_row_is_no_text(tmp_path: Path) -> None:
    """Read as text, every other row would keep its quotes."""
    rows = ['"He said ""no""."\tb\t1', '"Hello" he said\tb\t2']
    with pytest.raises(UserError, match="the row at line 3: '\t' expected"):
        read(put(tmp_path, "{}.tsv", "\n".join(["subject\tbody\tkind", *rows]).encode()))


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_keys_that_are_not_needed_do_not_matter(tmp_path: Path, form: str) -> None:
    deep, long = "[" * 99 + "]" * 99, "9" * 6000
    more = f'"x": 1, "x": {{"a": 1, "a": 2}}, "y": {long}, "z": [NaN, -Infinity, {deep}]'
    rows = [f'{{"subject": "a", "body": "b", "kind": {kind}, {more}}}' for kind in (2, 0, 1)]
    text = "\n".join(rows) if form == "jsonl" else f"[{','.join(rows)}]"
    assert read(put(tmp_path, f"{{}}.{form}", text.encode())).tables["train"]["label"].to_pylist() == [
        2,
        0,
        1,
    ]


@pytest.mark.parametrize("cell", ['{"de": "a", "de": "b", "en": "c"}', "{'de': 'a', 'de': 'b', 'en': 'c'}"])
def test_a_language_that_is_there_twice_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(UserError, match=r"row 0"):
        read(put(tmp_path, "{}.csv", delimited([{"translation": cell}])), TALK, "de-en")


def test_content_counts_and_not_path_and_time(tmp_path: Path) -> None:
    for form, write in WRITERS.items():
        folder = tmp_path / form
        seen = []
        for word in ("old", "new"):
            put(folder, f"{{}}.{form}", write(rows_of([0], [word])))
            for path in folder.iterdir():
                os.utime(path, (1_000_000_000, 1_000_000_000))
            seen.append(read(folder).tables["train"]["text"].to_pylist())
        assert seen == [["old body 0"], ["new body 0"]]


def classed(folder: Path, form: str) -> None:
    """Numbers in another order than the task's, with their names where the format keeps them."""
    rows = rows_of([0, 1, 2])
    split = datasets.Dataset.from_list(rows, features=FEATURES)
    if form == "save_to_disk":
        datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(folder))
    elif form == "parquet of datasets":
        for name in ("train", "test"):
            split.to_parquet(folder / f"{name}.parquet")
    elif form.endswith("dataset_info.json"):
        put(folder, "{}.csv", WRITERS["csv"](rows))
        info = {"features": FEATURES.to_dict()}
        (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    else:
        put(folder, f"data/{{}}-00000-of-00001.{form}", WRITERS[form](rows))
        (folder / "README.md").write_bytes(CARD)


@pytest.mark.parametrize(
    "form", [*WRITERS, "save_to_disk", "parquet of datasets", "csv and dataset_info.json"]
)
def test_label_names_win_wherever_they_stand(tmp_path: Path, form: str) -> None:
    classed(tmp_path, form)
    raw = read(tmp_path)
    assert raw.tables["train"]["label"].to_pylist()[:4] == [1, 2, 0, 1]
    assert notes_of(raw) == ["labels are mapped by the names that the data states: spam, other, ham"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0", "1", "2"], [0, 1, 2]),
        (["1", "2", "3"], [0, 1, 2]),
        (["Ham", "SPAM", "other "], [0, 1, 2]),
        (["ham", "spam", "other", "unused"], [0, 1, 2]),
        (["ham", "spam"], "the data set states the 2 labels ham, spam"),
        (["ham", "spam", "rest"], "states the labels ham, spam, rest, the task has ham, spam, other"),
        (["2", "1", "0"], "states the labels 2, 1, 0, the task has"),
    ],
)
def test_label_names_are_those_of_the_task_or_refused(
    tmp_path: Path, names: list[str], expected: Any
) -> None:
    rows = rows_of([0, 1, 2], ["a", "b", "c"])
    put(tmp_path, "{}.csv", WRITERS["csv"](rows))
    features = {"features": {"kind": {"names": names, "_type": "ClassLabel"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(features), encoding="utf-8")
    if isinstance(expected, list):
        assert read(tmp_path).tables["train"]["label"].to_pylist() == expected
    else:
        with pytest.raises(UserError, match=expected):
            read(tmp_path)


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), dict],
    ids=["large", "view", "binary", "dictionary"],
)
@pytest.mark.parametrize("write", [pq.write_table, ipc(pa.ipc.new_stream)], ids=["parquet", "arrow"])
def test_every_arrow_type_of_text(tmp_path: Path, kind: Any, write: Any) -> None:
    rows = rows_of(["ham", "other"])
    schema = {"subject": kind} if kind == pa.binary() else {"subject": kind, "kind": kind}
    form = "parquet" if write is pq.write_table else "arrow"
    table = read(put(tmp_path, f"{{}}.{form}", columnar(rows, write, schema))).tables["train"]
    assert table["text"].to_pylist() == joined(rows)
    assert table["label"].to_pylist()[:2] == [0, 2]


@pytest.mark.parametrize("form", ["parquet", "arrow", "jsonl", "json"])
def test_columns_that_are_not_needed_do_not_matter(tmp_path: Path, form: str) -> None:
    for shard, extra in enumerate(({"a": 1}, "text")):
        rows = [{**row, "extra": extra, "when": shard} for row in rows_of([0, 1], TEXTS[5 * shard :][:5])]
        put(tmp_path, f"{{}}-0000{shard}-of-00002.{form}", WRITERS[form](rows))
    assert len(read(tmp_path).tables["train"]) == 10


def test_shards_may_differ_in_how_they_hold_text_and_labels(tmp_path: Path) -> None:
    put(
        tmp_path,
        "{}-0.parquet",
        columnar(rows_of([0, 1, 2], TEXTS[:3]), pq.write_table, {"subject": pa.string_view()}),
    )
    put(tmp_path, "{}-1.parquet", columnar(rows_of(["0", "1", "2"], TEXTS[3:6]), pq.write_table))
    assert read(tmp_path).tables["train"]["label"].to_pylist() == [0, 1, 2, 0, 1, 2]


COMPLETE = [
    ["{}-00000-of-00002.csv", "{}-00001-of-00002.csv"],
    ["data/{}-00000-of-00002-0123456789abcdef.csv", "data/{}-00001-of-00002-fedcba9876543210.csv"],
    ["{}/0000.csv", "{}/0001.csv"],
    ["default/{}/0000.csv", "default/{}/0001.csv"],
    ["{}/part-00000-aa-c000.csv", "{}/part-00001-aa-c000.csv"],
    ["{}.csv/part.0.csv", "{}.csv/part.1.csv"],
    ["{}_1.csv", "{}_2.csv"],
    ["{}/a.csv", "{}/b.csv"],
    ["mail-{}-00000-of-00002.csv", "mail-{}-00001-of-00002.csv"],
    ["{}-2024.csv"],
    ["{}.CSV"],
    ["mail_{}.csv"],
    ["data/{}.csv"],
]


@pytest.mark.parametrize("names", COMPLETE, ids=lambda names: names[0])
def test_layouts_that_are_complete(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        put(tmp_path, name, delimited(rows_of([0, 1], TEXTS[number : number + 1])))
    for hidden in (".DS_Store", "._train.csv", "_SUCCESS", "notes.md"):
        (tmp_path / hidden).write_bytes(b"x")
    expected = [f"{TEXTS[number]} body 0" for number in range(len(names))]
    assert read(tmp_path).tables["train"]["text"].to_pylist() == expected


def test_shards_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(11):
        put(tmp_path, f"{{}}-{number}.csv", delimited(rows_of([0], [f"n{number}"])))
    assert read(tmp_path).tables["train"]["text"].to_pylist() == [f"n{i} body 0" for i in range(11)]


INCOMPLETE = [
    (["train-00000-of-00002.csv"], "lacks shard 1 of 2"),
    (["train-00001-of-00002.csv"], "lacks shard 0 of 2"),
    (
        ["train-00000-of-00001.csv", "train-00000-of-00002.csv", "train-00001-of-00002.csv"],
        "no shards of one set",
    ),
    (["train-00000-of-00002-0123456789.csv", "train-00000-of-00002-1123456789.csv"], "lacks shard 1"),
    (["train-old.csv", "train-new.csv"], "train-new.csv, train-old.csv are no shards of one set"),
    (["train.csv", "train-old.csv"], "no shards of one set"),
    (["train.csv", "train_copy.csv"], "no shards of one set"),
    (["train.csv", "train.jsonl"], "several formats: train.csv, train.jsonl"),
    (["train.csv", "train.csv.gz"], "several formats"),
    (["train.csv", "train/0000.csv"], "more than once: train.csv and train/0000.csv"),
    (["train.csv", "data/train.csv"], "more than once: train.csv and data/train.csv"),
    (["train/0000.csv", "train/0002.csv"], "lacks shard 1"),
    (["train/0001.csv"], "lacks shard 0"),
    (["train-0.csv", "train-2.csv"], "lacks shard 1"),
    (["train-0.csv", "train-1.csv"], "are the same file twice"),
    (["train.xlsx"], "save train.xlsx as CSV"),
    (["train.tar.gz"], "unpack train.tar.gz"),
    (["train.txt"], "train.txt has no columns"),
    (["train.de", "train.en"], 'train.de and train.en side by side into train.jsonl, one {"de": "...", "en"'),
    (["train.zh_CN", "train.eng"], "side by side into train.jsonl"),
    (["train.tok.de.gz", "train.tok.en.gz"], "train.tok.de.gz and train.tok.en.gz side by side"),
    (["Europarl.de-en.de", "Europarl.de-en.en"], "side by side into train.jsonl"),
    (["train.de.txt", "train.en.txt"], "side by side into train.jsonl"),
    (["de-en/train.tags.de-en.de", "de-en/train.tags.de-en.en"], "holds de-en, test.csv$"),
    (["train/train.de", "train/train.en"], "train/train.de and train/train.en side by side"),
    (["train.tmx"], "write the pairs of train.tmx into train.jsonl"),
    (["train.xml"], "write the pairs of train.xml"),
    (["train/World/1.txt"], "no train split; .*train holds train/World"),
    (["train/a.csv", "train/more/b.csv"], "holds the folder 'more' with files of rows"),
    (["train/more/b.csv"], "holds the folder 'more' with files of rows"),
    (["train/part-00000-x.csv", "train/part-00000-y.csv"], "two sets of files side by side"),
    (["train/a.csv", "train/a (1).csv"], r"'a \(1\)' is a copy of 'a'"),
    (["train/a.csv", "train/Copy of a.csv"], "'Copy of a' is a copy of 'a'"),
    (["train/a.csv", "train/a-checkpoint.csv"], "'a-checkpoint' is a copy of 'a'"),
    (["train.csv", "train_old2.csv"], "'train_old2' is a copy of 'train'"),
    (["all.csv"], "has no train split; .*it holds all.csv, test.csv"),
]


@pytest.mark.parametrize(("names", "message"), INCOMPLETE, ids=lambda value: str(value)[:40])
def test_layouts_that_are_not_are_named(tmp_path: Path, names: list[str], message: str) -> None:
    content = delimited(rows_of([0, 1]))
    (tmp_path / "test.csv").write_bytes(content)
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_aligned_files_that_lack_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.de").write_text("eins\nzwei\ndrei", encoding="utf-8")
    for text, clause in (("one\ntwo\nthree\n", "a line$"), ("one\ntwo\n", "they have 3 and 2 lines")):
        (tmp_path / "train.en").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=clause):
            read(tmp_path)
    (tmp_path / "train.en").unlink()
    (tmp_path / "train.en").mkdir()  # of a folder there are no lines to count
    with pytest.raises(UserError, match="side by side"):
        read(tmp_path)


def test_a_clone_of_a_hub_data_set_is_read_by_its_card(tmp_path: Path) -> None:
    put(tmp_path, "raw/{}-set/part.csv", delimited(rows_of([0, 1], ["a"])))
    put(tmp_path, "other/{}.csv", delimited(rows_of([0, 1], ["wrong"])))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: other\n  data_files: other/*.csv\n- config_name: mine\n"
        "  default: true\n  data_dir:\n  data_files:\n  - split: train\n    path: raw/train-set/*\n"
        "  - split: test\n    path: [raw/test-set/*.csv]\n---\n",
        encoding="utf-8",
    )
    assert read(tmp_path).tables["train"]["text"].to_pylist() == ["a body 0"]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(card.replace("raw/train-set", "../raw"), encoding="utf-8")
    with pytest.raises(UserError, match="outside its folder"):
        read(tmp_path)


def pairs(form: str, nested: bool) -> Rows:
    rows = [{"de": f"das, {text}", "en": f"this\n{text}"} for text in TEXTS]
    if not nested:
        return rows
    return [{"translation": json.dumps(row) if form in ("csv", "tsv") else row} for row in rows]


@pytest.mark.parametrize("nested", [True, False], ids=["one column", "two columns"])
@pytest.mark.parametrize("form", WRITERS)
def test_translations_in_every_format(tmp_path: Path, form: str, nested: bool) -> None:
    put(tmp_path, f"{{}}.{form}", WRITERS[form](pairs(form, nested)))
    for pair, sides in (("de-en", ("source", "target")), ("en-de", ("target", "source"))):
        table = read(tmp_path, TALK, pair).tables["test"]
        assert table[sides[0]].to_pylist() == [f"das, {text}" for text in TEXTS]
        assert table[sides[1]].to_pylist() == [f"this\n{text}" for text in TEXTS]


def test_a_translation_as_python_shows_it_in_csv(tmp_path: Path) -> None:
    rows = [{"translation": str({"de": "das 'ist'", "en": "this"})}]
    put(tmp_path, "{}.csv", delimited(rows))
    assert read(tmp_path, TALK, "de-en").tables["test"]["source"].to_pylist() == ["das 'ist'"]


FOREIGN = {
    "lz4": b"\x04\x22\x4d\x18....",
    "zip": zipped(b"a"),
    "xls": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "sqlite": b"SQLite format 3\x00",
    "hdf5": b"\x89HDF\r\n\x1a\n",
    "pdf": b"%PDF-1.7",
    "page": b"\xef\xbb\xbf\n  <!doctype HTML><html>",
    "xml": b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    "gz": gzip.compress(b"a"),
    "pointer": b"\xef\xbb\xbfversion https://git-lfs.github.com/spec/v1\r\noid sha256:0\r\nsize 3\r\n",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("name", ["train.csv", "train.jsonl", "train.parquet", "train.arrow", "train.csv.xz"])
def test_another_kind_of_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / "test.csv").write_bytes(delimited(rows_of([0, 1, 2])))
    (tmp_path / name).write_bytes(lzma.compress(content) if name.endswith(".xz") else content)
    with pytest.raises(UserError, match=r"by its first bytes it is|git lfs pull") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst"])
def test_a_packed_file_is_whole_and_nothing_else(tmp_path: Path, packing: str) -> None:
    """Several streams, one behind the other, are one file; a damaged second one is not left out."""
    rows = rows_of([2, 0, 1])
    lines = delimited(rows).splitlines(keepends=True)
    pack = PACKERS[packing]
    one, two = pack(b"".join(lines[:3])), pack(b"".join(lines[3:]))
    sound = read(put(tmp_path, f"{{}}.csv{packing}", one + two))
    assert sound.tables["train"]["text"].to_pylist() == joined(rows)
    for damaged in (one + two[:-6], one + two[:2], one + b"x" + two[1:], one + b"junk", one[:-1], one[:1]):
        with pytest.raises(UserError, match="cannot unpack") as caught:
            read(put(tmp_path, f"{{}}.csv{packing}", damaged))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of a process is Linux's to tell")
@pytest.mark.parametrize("packing", PACKERS)
def test_a_packed_file_takes_no_more_memory_than_it_holds(tmp_path: Path, packing: str) -> None:
    """Each .zst that was cut off kept half of the machine: after a few of them no process could fork."""
    size = lambda: int(Path("/proc/self/status").read_text().split("VmSize:")[1].split()[0])  # noqa: E731
    whole = PACKERS[packing](delimited(rows_of([0, 1, 2])))
    put(tmp_path, f"{{}}.csv{packing}", whole)
    read(tmp_path)
    before = size()
    read(tmp_path)
    put(tmp_path, f"{{}}.csv{packing}", whole[:-9])
    with suppress(UserError):  # not packed at all, it is only shorter
        read(tmp_path)
    assert size() - before < 2**20, "KiB"


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz", ".zst", ".zip"])
def test_a_packed_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str) -> None:
    content = delimited(rows_of([0, 1, 2]))
    put(tmp_path, f"{{}}.csv{packing}", PACKERS[packing](content))
    monkeypatch.setattr(files, "MOST", len(content))
    assert len(read(tmp_path).tables["train"]) == len(TEXTS)
    monkeypatch.setattr(files, "MOST", len(content) - 1)
    with pytest.raises(UserError, match=r"too much for this machine's memory.*parquet"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ({"a.csv": 1, ".DS_Store": 0, "__MACOSX/._a.csv": 0, "folder/": 0}, None),
        ({"anything": 1}, None),
        ({"a.csv": 1, "b.csv": 1}, "holds 2 files and not one"),
        ({}, "holds 0 files"),
        ({"a.json": 1}, "holds a.json, which is no csv"),
    ],
)
def test_what_a_zip_may_hold(tmp_path: Path, inside: dict[str, int], message: str | None) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, sound in inside.items():
            archive.writestr(name, delimited(rows_of([0, 1, 2])) if sound else b"")
    put(tmp_path, "{}.csv.zip", out.getvalue())
    if message is None:
        assert len(read(tmp_path).tables["train"]) == len(TEXTS)
    else:
        with pytest.raises(UserError, match=message):
            read(tmp_path)
