"""The points that a search over ranges tries, by Optuna's TPE (Bergstra et al., 2011), alike at every call.

The first ``STARTUP`` are drawn at random, so that they can run at once; each further one follows from all
before it. Nothing is stored: points are asked for anew, and told the outcomes that are on record.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config.schema import SearchRange
from finetune.errors import UserError

STARTUP = 10  # points, Optuna's own number
SEED = 0  # of the sampler, alike for every variant
DIGITS = 3  # of a number that is tried: further ones say nothing, and make long names of folders


@dataclass(frozen=True)
class Outcome:
    """The end of a trial: its score, ``None`` where it has failed."""

    score: float | None


Values = Mapping[str, Any]


def points(
    ranges: Mapping[str, Sequence[Any] | SearchRange],
    trials: int,
    outcome: Callable[[Values], Outcome | None],
    *,
    higher_is_better: bool,
) -> list[Values]:
    """The points that are known by now, at most ``trials``; ``outcome`` of each is ``None`` before its end.

    Raises ``UserError`` where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "a search (trials: N) needs Optuna: pip install 'softmax-finetune[tune]', or leave trials out "
            "and give lists of values, which are tried one by one"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=SEED, n_startup_trials=STARTUP)
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=sampler)
    distributions = {key: _distribution(optuna.distributions, values) for key, values in ranges.items()}
    found: list[Values] = []
    while len(found) < trials:
        many = 1 if found else min(STARTUP, trials)
        asked = [study.ask(distributions) for _ in range(many)]
        tried = [_point(ranges, trial.params) for trial in asked]
        found += tried
        outcomes = [outcome(values) for values in tried]
        if None in outcomes:
            break
        for trial, each in zip(asked, outcomes, strict=True):
            if each is None or each.score is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, each.score)
    return found


def _distribution(kinds: Any, values: Sequence[Any] | SearchRange) -> Any:
    """Of a range the numbers in it; of a list the places in it, as Optuna takes no lists or mappings."""
    if isinstance(values, SearchRange):
        return kinds.FloatDistribution(values.low, values.high, log=values.log)
    return kinds.CategoricalDistribution(range(len(values)))


def _point(ranges: Mapping[str, Sequence[Any] | SearchRange], drawn: Mapping[str, Any]) -> Values:
    values: dict[str, Any] = {}
    for key, among in ranges.items():
        if isinstance(among, SearchRange):
            rounded = float(f"{drawn[key]:.{DIGITS}g}")
            values[key] = min(max(rounded, among.low), among.high)
        else:
            values[key] = among[drawn[key]]
    return values
