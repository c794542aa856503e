"""Kill runs at random until they finish, and hold each against one that was never killed.

    python -m tests.kills --kills 100 --seed 0

A run is started again after every kill, until it finishes; then every file of its folder must be that of the
run that was not killed: weights, optimizer and predictions to the last bit, records and logs but for times,
nothing left over and nothing missing. A third of the kills are SIGKILLs at a random time, a third SIGKILLs at
a random file operation (where that is the writing of weights or of an optimizer's state, it is cut off at a
random byte), and a third a SIGTERM or SIGUSR1 at a random time, by which a run is preempted. Each run is a
child forked from this process, which has everything imported and nothing begun.
"""

import argparse
import functools
import gc
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

STEPS = ["--train.save_strategy", "steps", "--train.save_steps", "4"]
EVALUATED = [*STEPS, "--train.eval_strategy", "steps", "--train.eval_steps", "4"]
BEST = [*EVALUATED, "--train.load_best_model_at_end", "true", "--train.learning_rate", "5e-3"]
CASES: dict[str, list[str]] = {
    "early stopping": ["classify", *BEST, "--early_stopping_patience", "2", "--train.num_train_epochs", "5"],
    "best model": ["classify", *BEST, "--train.save_total_limit", "1"],
    "annealed": ["classify", "--attention.start", "annealed", "--attention.annealing_share", "0.6", *STEPS],
    "adapters": ["classify", "--model", "BASE", "--model.lora.rank", "3", *STEPS],
    "translation": ["translate", *STEPS, "--train.num_train_epochs", "1"],
    "translation, best model": ["translate", *BEST, "--train.max_steps", "9"],
    "diagnosis": ["classify", "--diagnose", *STEPS, "--train.logging_steps", "3", "--train.max_steps", "13"],
    "ends of epochs": [
        "classify", "--train.save_strategy", "steps", "--train.save_steps", "5",
        "--train.eval_strategy", "epoch", "--train.logging_strategy", "epoch",
        "--train.gradient_accumulation_steps", "2", "--train.eval_on_start", "true",
    ],
    "plateau": [
        "classify", *EVALUATED, "--train.lr_scheduler_type", "reduce_lr_on_plateau",
        "--train.optim", "adafactor",
        "--train.metric_for_best_model", "loss", "--train.lr_scheduler_kwargs.patience", "0",
    ],
    "calibrated": ["classify", "--attention.start", "calibrated", "--train.save_strategy", "epoch"],
}  # fmt: skip
TIMES = ("_runtime", "_per_second")
WRITERS = ("torch.save", "transformers.modeling_utils.safe_save_file", "peft.peft_model.safe_save_file")
PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (signal.SIGKILL, *PREEMPTING)
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


class Operations:
    """Counts the operations of this process on files below ``root``; at number ``last`` it kills itself."""

    def __init__(self, root: Path, last: int | None, draw: random.Random) -> None:
        self.root, self.last, self.draw, self.count = str(root), last, draw, 0

    def watch(self) -> None:
        """From here on. Weights are written by libraries that tell Python nothing: they are wrapped."""
        for writer in WRITERS:
            place, _, name = writer.rpartition(".")
            setattr(sys.modules[place], name, self._cut_off(getattr(sys.modules[place], name)))
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or not str(args[0]).startswith(self.root):
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _cut_off(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(write)
        def wrapped(content: Any, file: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            written = write(content, file, *args, **kwargs)
            if self.count == self.last:
                os.truncate(file, self.draw.randrange(Path(file).stat().st_size))
                os.kill(os.getpid(), signal.SIGKILL)
            return written

        return wrapped


def start(words: list[str], root: Path, last: int | None, draw: random.Random, log: Path) -> int:
    """Fork a child that types ``words``; its process id. It is killed at file operation ``last``."""
    child = os.fork()
    if child:
        return child
    _run(words, root, last, draw, log)


def _run(words: list[str], root: Path, last: int | None, draw: random.Random, log: Path) -> NoReturn:
    status = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        operations = Operations(root, last, draw)
        operations.watch()
        from finetune.cli.main import main

        status = main(words)
        log.with_suffix(".count").write_text(str(operations.count))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> bool:
    """Wait for a child; whether it finished. Raises ``RuntimeError`` where it failed by itself."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in SIGNALS:
        return False
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == os.EX_TEMPFAIL:
        return False
    if status:
        raise RuntimeError(f"a run ended with status {os.waitstatus_to_exitcode(status)}")
    return True


def content(file: Path) -> Any:
    """What must be equal in two runs: a file's bytes, but for times."""
    if file.name in ("README.md", "manifest.json"):  # of times, and of hashes of times
        return None
    if file.name == "record.json":
        found = json.loads(file.read_text(encoding="utf-8"))
        for key in ("started", "finished", "times", "peak_memory_mib", "git"):
            found.pop(key)
        return found | {"curve": [_timeless(entry) for entry in found["curve"]]}
    if file.name == "trainer_state.json":
        found = json.loads(file.read_text(encoding="utf-8"))
        return found | {"log_history": [_timeless(entry) for entry in found["log_history"]]}
    return file.read_bytes()


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not key.endswith(TIMES)}


def differences(whole: Path, killed: Path) -> list[str]:
    """What is left over, missing or different in ``killed``."""
    first, second = (
        {path.relative_to(root).as_posix(): path for path in root.rglob("*")} for root in (whole, killed)
    )
    found = [f"{name} is missing" for name in first.keys() - second.keys()]
    found += [f"{name} is left over" for name in second.keys() - first.keys()]
    for name in first.keys() & second.keys():
        if first[name].is_file() and content(first[name]) != content(second[name]):
            found.append(f"{name} differs")
    return sorted(found)


class Kills:
    """Trials of each case in one scratch folder; ``runs`` there is the output of whichever run goes on."""

    def __init__(self, work: Path, draw: random.Random) -> None:
        self.work, self.draw, self.kills = work, draw, 0
        self.root = work / "runs"
        self.known: dict[str, tuple[float, int]] = {}  # seconds and operations of a whole run

    def words(self, case: str, common: list[str]) -> list[str]:
        """What is typed."""
        verb, *options = CASES[case]
        base = str(self.work / "base/agnews/scratch-tiny/softmax/seed-0")
        options = [base if option == "BASE" else option for option in options]
        return [verb, "--output", str(self.root), *common, "--attention", "sa-softmax", *options]

    def whole(self, case: str, common: list[str]) -> None:
        """Run a case once without a kill, and keep its folder."""
        if "BASE" in CASES[case] and not (self.work / "base").exists():
            typed = ["classify", "--output", str(self.work / "base"), *common, "--attention", "softmax"]
            ended(start(typed, self.work / "base", None, self.draw, self.work / "base.log"))
        began, log = time.monotonic(), self.work / f"{case}.log"
        ended(start(self.words(case, common), self.root, None, self.draw, log))
        self.known[case] = (time.monotonic() - began, int(log.with_suffix(".count").read_text()))
        self.root.rename(self.work / case)

    def trial(self, case: str, common: list[str], kills: int, name: str) -> list[str]:
        """Kill a run up to ``kills`` times, let it finish; what differs from the whole one."""
        seconds, operations = self.known[case]
        log = self.work / f"{name}.log"
        words, done, shots = self.words(case, common), False, []
        for _ in range(kills):
            number = self.draw.choice([None, signal.SIGKILL, self.draw.choice(PREEMPTING)])
            last = self.draw.randint(1, operations) if number is None else None
            wait = self.draw.uniform(0.1, seconds)
            child = start(words, self.root, last, self.draw, log)
            if number is not None:
                time.sleep(wait)
                os.kill(child, number)  # not waited for yet: the number is still its own
            done = ended(child)
            if done:
                break
            self.kills += 1
            shots.append(f"operation {last}" if number is None else f"{number.name} {wait:.2f} s")
        if not done:
            ended(start(words, self.root, None, self.draw, log))
        ended(start(words, self.root, None, self.draw, log))  # finished already: mends what a kill left
        found = differences(self.work / case, self.root)
        if found:
            self.root.rename(self.work / name)
        else:
            shutil.rmtree(self.root)
        print(f"{name}: killed at {', '.join(shots) or 'nothing'}: {'; '.join(found) or 'equal'}", flush=True)
        return found


def warm_up() -> list[str]:
    """Import what a run imports, and start nothing; the options that every run has."""
    import peft.peft_model  # noqa: F401
    from transformers.models.bert import modeling_bert  # noqa: F401
    from transformers.models.marian import modeling_marian  # noqa: F401

    import finetune.training.run  # noqa: F401
    from tests.support.small_runs import COMMON

    gc.collect()
    gc.freeze()  # no child goes through what was imported here
    return COMMON


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="stop after so many (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the times and operations (default 0)")
    parser.add_argument("--case", action="append", choices=list(CASES), help="one of the cases, or several")
    options = parser.parse_args()
    for name, value in (
        ("OMP_NUM_THREADS", "1"),
        ("HF_HUB_OFFLINE", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ["FINETUNE_CACHE"] = str(work / "cache")
    common, began = warm_up(), time.monotonic()
    print(f"seed {options.seed}, in {work}", flush=True)
    kills, faults, trials = Kills(work, random.Random(options.seed)), 0, 0
    cases = options.case or list(CASES)
    while kills.kills < options.kills:
        case = cases[trials % len(cases)]
        trials += 1
        if case not in kills.known:
            kills.whole(case, common)
        most = min(kills.draw.randint(1, 4), options.kills - kills.kills)
        faults += bool(kills.trial(case, common, most, f"{case}, trial {trials}"))
    spent = time.monotonic() - began
    print(
        f"{kills.kills} kills in {trials} runs, {spent:.0f} s: {faults} ended otherwise (seed {options.seed})"
    )
    if not faults:
        shutil.rmtree(work)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
