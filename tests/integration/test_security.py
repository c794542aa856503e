"""What executes, what is written down, and where: SECURITY.md's promises."""

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate
import pytest
from huggingface_hub import constants

from finetune import load
from finetune.attention.kernels.native import kept
from finetune.cli.main import main
from finetune.data import token_cache
from finetune.errors import UserError
from finetune.metrics.compute import load_metric
from finetune.models.checkpoint import CONFIG_FILE, ORIGIN_FILE
from finetune.publishing.push import _lay_out
from finetune.records import manifest, store
from finetune.studies import logs
from finetune.system import files, ownership
from finetune.system.checksum import sha256
from finetune.system.redaction import redact
from finetune.training import resume
from finetune.training.diagnosis import Diagnosis
from tests.support.records import classified, correctness, run_config, save, started
from tests.support.small_runs import COMMON, folder, run

STEPS = ("--attention", "softmax", "--train.save_strategy", "steps", "--train.save_steps", "5")
SECRET = "hf_abcdefghijklmnop0123456789"


class _Mark:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint; its root."""
    root = tmp_path_factory.mktemp("run")
    assert run("classify", root, *STEPS) == 0
    return root


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The folder of a copy of the run, which may be spoilt."""
    shutil.copytree(finished, tmp_path / "runs")
    return folder("classify", tmp_path / "runs")


def files_of(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and path.name != ".lock")


def ends_well(status: int, capsys: pytest.CaptureFixture[str]) -> bool:
    """Done, or refused in one line."""
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    return (status, told) == (0, []) or (
        status == 2 and [line[:17] for line in told] == ["finetune: error: "]
    )


def plant(file: Path, mark: Path) -> None:
    """Write a pickle that makes the folder ``mark`` where it is read, in the protocol that torch writes."""
    file.write_bytes(pickle.dumps(_Mark(mark), protocol=2))


def is_loaded_or_refused(place: Path) -> bool:
    try:
        load(place)
    except UserError as error:
        return "\n" not in str(error) and "weights_only" not in str(error)
    return True


def stamp(checkpoint: Path) -> None:
    """Write the manifest of a checkpoint anew, as somebody would who changed its files on purpose."""
    kept = json.loads((checkpoint / manifest.FILE).read_text())
    (checkpoint / manifest.FILE).unlink()
    manifest.write(checkpoint, kept["run"], [path for path in checkpoint.iterdir() if path.is_file()])


def test_the_mark_would_be_left_by_a_reader_that_executes(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Mark(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
def test_no_pickle_in_any_file_of_a_run_is_executed(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file by itself, so that those before it are whole and it is come to."""
    names = [path.name for path in files_of(copied) if path.parent == copied]
    assert "training_args.bin" in names and "record.json" in names and "manifest.json" in names
    for name in names:
        content = (copied / name).read_bytes()
        plant(copied / name, tmp_path / "ran")
        assert is_loaded_or_refused(copied), name
        capsys.readouterr()
        if name in ("record.json", "predictions.jsonl", "training_args.bin"):  # what is read beyond the model
            assert ends_well(main(["diagnose", str(copied), "--rows", "2"]), capsys), name
            assert ends_well(main(["compare", str(copied), "--output", str(tmp_path / "report")]), capsys)
        assert not (tmp_path / "ran").exists(), name
        (copied / name).write_bytes(content)


def test_no_pickle_in_all_files_of_a_run_is_executed(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in files_of(copied):
        plant(path, tmp_path / "ran")
    assert is_loaded_or_refused(copied)
    assert ends_well(run("classify", tmp_path / "runs", *STEPS), capsys)
    assert ends_well(main(["push", str(copied), "--to", "org/name"]), capsys)
    assert not (tmp_path / "ran").exists()


STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "pytorch_model.bin", "optimizer.bin")
TEXTS = ("trainer_state.json", "config.json", "tokenizer.json", "model.safetensors")


@pytest.mark.parametrize("name", [*STATES, *TEXTS])
@pytest.mark.parametrize("stamped", [False, True])
def test_a_pickle_in_a_checkpoint_has_it_passed_over(
    copied: Path, tmp_path: Path, name: str, stamped: bool
) -> None:
    (checkpoint,) = copied.glob("checkpoint-*")
    plant(checkpoint / name, tmp_path / "ran")
    if stamped:
        stamp(checkpoint)
    found = resume.newest(copied, json.loads((checkpoint / manifest.FILE).read_text())["run"])
    assert found.checkpoint is None and name in found.passed[0]
    assert not (tmp_path / "ran").exists()


def test_no_pickle_in_a_checkpoint_is_executed_by_resuming(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one file that nobody opens leaves the checkpoint whole; the others do not, and that is said."""
    entry = store.read(copied)
    for names, word in (("training_args.bin",), "resumes from its checkpoint"), (STATES, "passed over: its "):
        store.write(copied, {**entry, "status": "running"})
        checkpoint = max(copied.glob("checkpoint-*"))
        for name in names:
            plant(checkpoint / name, tmp_path / "ran")
        stamp(checkpoint)
        assert run("classify", tmp_path / "runs", *STEPS) == 0
        assert word in capsys.readouterr().out
        assert store.read(copied)["metrics"] == entry["metrics"]
        assert not (tmp_path / "ran").exists()


def test_a_checkpoint_sets_nothing_but_the_state_of_a_callback(copied: Path) -> None:
    (checkpoint,) = copied.glob("checkpoint-*")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    kept = {"args": {}, "attributes": {"taken": "[1]", "file": "/etc/passwd"}}
    looker = Diagnosis.__new__(Diagnosis)
    vars(looker).update(taken="[]", file=Path("diagnostics.json"))
    state["stateful_callbacks"]["Diagnosis"] = kept
    trainer = resume.Resumable()
    trainer.callback_handler = SimpleNamespace(callbacks=[looker])
    trainer.state = SimpleNamespace(**state)
    trainer.args = SimpleNamespace(output_dir=str(copied))
    trainer._load_callback_state()
    assert (looker.taken, looker.file) == ("[1]", Path("diagnostics.json"))


@pytest.mark.slow
def test_no_pickle_in_the_cache_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("FINETUNE_CACHE", str(cache))
    assert run("classify", tmp_path / "one", *STEPS, "--train.max_steps", "1") == 0
    kept = [path for path in files_of(cache / "tokens") if path.name == "about.json"]
    assert len(kept) == 3
    for number, about in enumerate(kept):
        rows = about.parent / "rows.arrow"
        rows.unlink()  # which is mapped into memory here
        plant(rows, tmp_path / "ran")
        if number:  # by somebody who knows how
            content = json.loads(about.read_text()) | {"sha256": sha256(rows)}
            about.write_text(json.dumps(content))
    token_cache._held.clear()
    assert run("classify", tmp_path / "two", *STEPS, "--train.max_steps", "1", "--seeds", "1") == 0
    assert "are damaged and are made anew" in caplog.text
    assert not (tmp_path / "ran").exists()


def test_a_metric_is_not_taken_from_a_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rouge").mkdir()
    (tmp_path / "rouge" / "rouge.py").write_text("import os\nos.mkdir('ran')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"rouge/rouge\.py"):
        load_metric("hub:rouge")
    assert not (tmp_path / "ran").exists()


def test_a_metric_of_the_hub_runs_only_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(evaluate, "load", lambda name, **_: asked.append(name))
    for name in ("rouge", "someone/mine"):
        with pytest.raises(UserError, match=f"write hub:{name} in 'metrics'"):
            load_metric(name)
    assert not asked
    load_metric("hub:rouge")
    assert asked == ["rouge"]


# The kernel's folder


def kernels_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is made for kernels in a cache of the test's own."""
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    return kept.folder()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o722])
def test_a_kernel_folder_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setattr(ownership, "_is_private", lambda group: False)
    place = kernels_at(tmp_path, monkeypatch)
    assert place.parent == tmp_path / "cache" and stat.S_IMODE(place.stat().st_mode) == 0o700
    for shared in (place, place.parent):
        shared.chmod(mode)
        with pytest.raises(PermissionError, match="others can write"):
            kept.folder()
        shared.chmod(0o700)


def test_a_kernel_folder_that_is_a_link_or_another_users_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = kernels_at(tmp_path, monkeypatch)
    open_to_all = tmp_path / "elsewhere"
    open_to_all.mkdir(mode=0o700)
    open_to_all.chmod(0o777)
    place.rmdir()
    place.symlink_to(open_to_all)
    with pytest.raises(PermissionError):
        kept.folder()
    place.unlink()
    place.mkdir(mode=0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    assert os.getuid() != place.stat().st_uid
    assert uid == 0 or not ownership.is_own(place)


@pytest.mark.parametrize("chain", [1, 2])
@pytest.mark.parametrize("which", ["cache", "folder"])
def test_a_kernel_folder_by_a_link_through_a_folder_of_all_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, chain: int
) -> None:
    """What the link leads to is the user's own, but others can put something else in its place."""
    place = kernels_at(tmp_path, monkeypatch)
    link = place if which == "folder" else place.parent
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.rename(tmp_path / "kept" if chain == 2 else open_to_all / "kept")
    if chain == 2:
        (open_to_all / "kept").symlink_to(tmp_path / "kept")
    link.symlink_to(open_to_all / "kept")
    with pytest.raises(PermissionError):
        kept.folder()
    open_to_all.chmod(0o755)
    if which == "cache":
        assert kept.folder() == place, "a link alone does no harm"


def test_a_kernel_folder_of_all_is_not_used_though_it_is_sticky(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = kernels_at(tmp_path, monkeypatch)
    place.parent.chmod(0o1777)
    assert kept.folder() == place, "as /tmp, above it"
    place.chmod(0o1777)
    with pytest.raises(PermissionError):
        kept.folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize("which", ["library", "link", "folder", "cache"])
def test_a_kernel_of_another_user_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Nor one by a link; a library that is there and one's own is taken as it is."""
    place = kernels_at(tmp_path, monkeypatch)
    kept.keep(place, "native-0", b"a library")
    (library,) = kept.find(place, "native-0")
    if which == "link":
        library.rename(tmp_path / "elsewhere.so")
        library.symlink_to(tmp_path / "elsewhere.so")
    else:
        os.chown({"library": library, "folder": place, "cache": place.parent}[which], 1000, 1000)
    if which in ("folder", "cache"):
        with pytest.raises(PermissionError):
            kept.folder()
    else:
        assert kept.folder() == place and not kept.find(place, "native-0")
        assert not library.exists() and not library.is_symlink()


# Links


def test_a_link_out_of_a_run_is_not_published(tmp_path: Path) -> None:
    run_folder = save(tmp_path, started("softmax", 0), classified(correctness(40, 0.5, 0)))
    for name in (CONFIG_FILE, ORIGIN_FILE):
        (run_folder / name).write_text("a: 1\n")
    (tmp_path / "id_rsa").write_text("secret")
    (run_folder / "vocab.txt").symlink_to(tmp_path / "id_rsa")
    (tmp_path / "stage").mkdir()
    with pytest.raises(UserError, match="outside the run"):
        _lay_out(run_folder, store.read(run_folder), "org/name", tmp_path / "stage")


def test_a_lock_does_not_empty_what_it_links_to(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("words")
    (copied / ".lock").unlink()
    (copied / ".lock").symlink_to(tmp_path / "thesis")
    assert main(["diagnose", str(copied), "--rows", "2"]) == 2
    assert (tmp_path / "thesis").read_text() == "words"


@pytest.mark.parametrize(
    "name", ["config.json", "training_args.bin", "finetune.yaml", "checkpoint-5", "runs"]
)
def test_a_run_does_not_write_through_a_link(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    store.write(copied, {**store.read(copied), "status": "running"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("words")
    (copied / name).unlink(missing_ok=True)
    (copied / name).symlink_to(tmp_path / "mine" / ("thesis" if "." in name else "."))
    capsys.readouterr()
    assert run("classify", tmp_path / "runs", *STEPS, "--train.save_total_limit", "1") == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{name} is a link to {tmp_path / 'mine'}" in told
    assert [path.read_text() for path in files_of(tmp_path / "mine")] == ["words"]


def test_of_a_link_among_checkpoints_nothing_but_the_link_is_removed(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("words")
    (copied / "checkpoint-99").symlink_to(tmp_path / "mine")
    (copied / "checkpoint-98").write_text("a file")
    (copied / ".notes.tmp").write_text("of the user's own")
    identity = json.loads((copied / manifest.FILE).read_text())["run"]
    found = resume.newest(copied, identity)
    assert found.checkpoint is not None and "checkpoint-99 is passed over: it is a link" in found.passed[0]
    resume.discard(copied, found, identity)
    assert [path.name for path in copied.glob("checkpoint-*")] == [found.checkpoint.name]
    assert (tmp_path / "mine" / "thesis").read_text() == "words"
    assert files.unfinished(copied) == []


def test_a_log_of_a_study_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("words")
    (tmp_path / "run.log").symlink_to(tmp_path / "thesis")
    os.mkfifo(tmp_path / "pipe.log")
    for name in ("run.log", "pipe.log"):
        with pytest.raises(UserError, match="cannot write the log"):
            logs.claim(tmp_path / name, ["finetune"])
    assert (tmp_path / "thesis").read_text() == "words"


# Full disks


@pytest.mark.slow
def test_a_full_disk_is_told_once_and_without_a_traceback(tmp_path: Path) -> None:
    """Of the report and of the terminal's output both, as where they share a disk."""
    save(tmp_path / "runs", started("softmax", 0), classified(correctness(40, 0.5, 0)))
    (tmp_path / "taken").write_text("")
    words = [sys.executable, "-m", "finetune", "compare", str(tmp_path / "runs"), "--output"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*words, str(tmp_path / "taken")], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("finetune: error: cannot write report.json")


# Secrets


PLAIN = "Zx9secretVALUE77qq"  # of no shape that gives it away


VARIABLES = {
    **dict.fromkeys(
        [
            "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HFTOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY",
            "MY_SECRET",
            "AWS_SESSION_TOKEN", "DB_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "GITHUB_PAT", "CLIENT_SECRETS",
            "TWINE_PASSPHRASE", "AUTHORIZATION", "AZURE_STORAGE_CONNECTION_STRING",
        ],
        "{}",
    ),
    "HF_ENDPOINT": "https://me:{}@mirror/x", "https_proxy": "http://{}@proxy:80", "DATABASE_URL": "db://a:{}@h/x",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
@pytest.mark.parametrize("value", [PLAIN, "s3cr3t,Value+0123", "correcthorsebattery"])
def test_a_secret_of_the_environment_is_in_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
) -> None:
    monkeypatch.setenv(name, VARIABLES[name].format(value))
    config = store.new(run_config(), command=f"finetune classify --task {value}")
    assert value not in json.dumps(config)
    assert main(["classify", "--task", f"{value}.py"]) == 2
    assert value not in capsys.readouterr().err


def test_the_token_that_a_login_keeps_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{PLAIN}\n")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert redact(f"HTTP 401 of {PLAIN}") == "HTTP 401 of ***"


@pytest.mark.slow
def test_a_run_leaves_no_secret_wherever_it_comes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the address of a mirror that cannot be reached, and in an error that nobody has foreseen."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://me:{PLAIN}@127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MY_SECRET", f"{PLAIN}2")

    def fail(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError(f"of {PLAIN}2 and of {{'token': '{PLAIN}'}}")

    monkeypatch.setattr("finetune.training.run.token_cache.prepare", fail)
    words = [word if word != "sample" else "auto" for word in COMMON]
    assert main(["classify", "--output", str(tmp_path / "runs"), *words, "--attention", "softmax"]) == 1
    assert main(["compare", str(tmp_path / "runs")]) == 0
    told = capsys.readouterr()
    assert "out of reach (http://***@127.0.0.1:9" in told.out and "ZeroDivisionError: of ***" in told.err
    files = files_of(tmp_path)
    assert {"record.json", "error.txt", "report.html"} <= {file.name for file in files}
    for text in (told.out, told.err, *(file.read_text(encoding="utf-8") for file in files)):
        assert PLAIN not in text


def test_a_secret_in_the_configuration_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = run("classify", tmp_path, "--model", f"https://me:{SECRET}@host/model")
    told = capsys.readouterr()
    assert status == 2 and "HF_TOKEN" in told.err and SECRET not in told.out + told.err


def test_an_error_reaches_the_terminal_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "--task", "\x1b]0;owned\x07\u202e.py"]) == 2
    assert capsys.readouterr().err.strip().isprintable()


@pytest.mark.slow
def test_what_is_named_reaches_the_terminal_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of data and of runs, labels in other letters, and notes on both."""
    evil = "\x1b]0;owned\x07\u202e\r"
    data = tmp_path / f"rows{evil}"
    data.mkdir()
    for name in ("train", "test"):
        rows = [{"text": f"word {i} {name}", "label": i % 4} for i in range(40)]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (data / f"{name}{evil}.txt").write_text("beside the rows")
    words = [str(data) if word == "sample" else word for word in COMMON]
    root = str(tmp_path / f"runs{evil}")
    train = ["classify", "--output", root, *words, "--attention", "softmax", "--train.max_steps", "1"]
    for typed in (train, train, ["compare", root], ["validate", "--task", "agnews", "--data", str(data)]):
        assert main(typed) == 0
    told = capsys.readouterr().out
    assert "finished already" in told and "wrote " in told and "rows\ufffd]0;owned" in told
    assert not set("\x1b\x07\u202e\r") & set(told)
