"""A finished run's record -> the files in which the Hub keeps results of a model on a data set of its own.

Newer than the ``model-index`` at the head of the card, beside which they are: ``.eval_results/NAME.yaml``, by
the schema at https://huggingface.co/docs/hub/eval-results.
"""

import yaml
from huggingface_hub import EvalResultEntry, constants, eval_result_entries_to_yaml

from finetune.publishing.metadata import is_on_the_hub
from finetune.records import store
from finetune.records.run import Run

FOLDER = ".eval_results"
TASK = "default"
"""The task of a data set that declares none: of those here no one has an ``eval.yaml``."""


def files(run: Run, name: str) -> dict[str, str]:
    """Path in the repository ``name`` -> text: one file with the primary metric, or none.

    Results on the Hub are compared by data set alone. So there are none of the sample, of rows from anywhere
    but the Hub, and of a part of the test rows.
    """
    test = run.splits["test"]
    if run.sample or not is_on_the_hub(run) or test["rows"] != test.get("of", test["rows"]):
        return {}
    entry = EvalResultEntry(
        dataset_id=run.data["location"],
        task_id=run.pair or TASK,
        value=run.scores[run.metric.name]["value"],  # as in the model-index
        dataset_revision=run.data["revision"],
        date=run.record["finished"],
        source_url=f"{constants.ENDPOINT}/{name}/blob/main/{store.FILE}",
        source_name="record of the run",
        notes=f"{run.metric.name} on {test['rows']:,} test rows, attention {run.variant}, seed {run.seed}"
        + (f"; {run.signature}" if run.signature else ""),
    )
    content = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
    return {f"{FOLDER}/{run.data['location'].rpartition('/')[2]}.yaml": content}
