"""Metrics: worked examples, their signatures, and no trace on the disk or the network."""

import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sacrebleu
import sklearn
from sklearn.metrics import log_loss

from finetune.errors import UserError
from finetune.metrics import compute, scorers

NAMES = ["a", "b", "c", "never"]


def test_classification_by_hand() -> None:
    """Class a: 2 of 3 found, nothing else called a; b: 1 of 1 found, 1 false; c: 1 of 1."""
    found = compute.classification_metrics([0, 0, 1, 1, 2], [0, 0, 0, 1, 2], NAMES)
    assert found["accuracy"] == {"value": 0.8, "signature": f"accuracy|scikit-learn:{sklearn.__version__}"}
    assert found["macro_f1"]["value"] == pytest.approx((0.8 + 2 / 3 + 1) / 3)
    assert "classes:occurring" in found["macro_f1"]["signature"]
    a = found["per_class"]["a"]
    assert (a["precision"], a["recall"], a["support"]) == (1.0, pytest.approx(2 / 3), 3)
    assert found["per_class"]["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [([0], [0, 1], "1 predictions for 2"), ([], [], "0 predictions"), ([4], [0], r"\[4\] are outside 0..3")],
)
def test_classification_refuses_what_does_not_fit(
    predictions: list[int], labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compute.classification_metrics(predictions, labels, NAMES)


def test_probabilities_by_hand() -> None:
    """Four rows, in bins that end at 8/15 (0.5), 10/15 (0.61 and, wrongly, 0.65) and 1 (0.95)."""
    probabilities = np.array([[0.5, 0.3, 0.2], [0.3, 0.61, 0.09], [0.2, 0.15, 0.65], [0.95, 0.04, 0.01]])
    found = compute.probability_metrics(np.log(probabilities), [0, 1, 2, 0], [0, 1, 0, 0])
    assert found["nll"]["value"] == pytest.approx(-np.log([0.5, 0.61, 0.2, 0.95]).mean())
    gaps = abs(1 - 0.5) + abs(1 - 0.61 - 0.65) + abs(1 - 0.95)
    assert found["ece"]["value"] == pytest.approx(gaps / 4)
    assert found["ece"]["signature"] == "ece|bins:15|width:equal|norm:l1|of:predicted"
    certain = np.array([[0.0, -1e3], [0.0, -1e3]], dtype=np.float32)
    sure = compute.probability_metrics(certain, [0, 0], [0, 1])
    assert (sure["nll"]["value"], sure["ece"]["value"]) == (500.0, 0.5)
    with pytest.raises(ValueError, match="2 predictions for 1"):
        compute.probability_metrics(certain, [0], [0])


def test_the_likelihood_is_that_of_scikit_learn() -> None:
    drawn = np.random.default_rng(5)
    probabilities, labels = drawn.dirichlet([0.3] * 7, size=101), drawn.integers(0, 7, 101)
    found = compute.probability_metrics(np.log(probabilities), probabilities.argmax(1), labels.tolist())
    assert found["nll"]["value"] == pytest.approx(log_loss(labels, probabilities, labels=range(7)))


def test_translation_is_sacrebleus() -> None:
    predictions, references = ["the cat sat on a mat .", ""], ["the cat sat on the mat .", "yes ."]
    found = compute.translation_metrics(predictions, references, "en")
    assert found["bleu"]["value"] == sacrebleu.corpus_bleu(predictions, [references]).score
    assert found["chrf"]["value"] == sacrebleu.corpus_chrf(predictions, [references]).score
    version = sacrebleu.__version__
    assert (
        found["bleu"]["signature"] == f"bleu|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    )
    assert found["chrf"]["signature"].startswith("chrf|nrefs:1|case:mixed")
    with pytest.raises(ValueError, match="2 predictions for 1"):
        compute.translation_metrics(predictions, ["one"], "en")


def test_chinese_is_split_into_characters() -> None:
    predictions, references = ["我喜欢猫和小狗。"], ["我喜欢猫和大狗。"]
    found = compute.translation_metrics(predictions, references, "zh")
    assert "tok:zh" in found["bleu"]["signature"]
    assert (
        found["bleu"]["value"]
        > 10
        > compute.translation_metrics(predictions, references, "de")["bleu"]["value"]
    )


@pytest.mark.parametrize(
    ("language", "extras", "expected"),
    [
        ("de", False, "13a"),
        (None, False, "13a"),
        ("zh-CN", False, "zh"),
        ("ja", False, "char"),
        ("ja", True, "ja-mecab"),
        ("ko_KR", False, "char"),
        ("ko", True, "ko-mecab"),
    ],
)
def test_the_tokenizer_follows_the_target_language(
    monkeypatch: pytest.MonkeyPatch, language: str | None, extras: bool, expected: str
) -> None:
    monkeypatch.setattr(scorers, "find_spec", lambda _: object() if extras else None)
    assert scorers.bleu_tokenizer(language) == expected


@pytest.mark.parametrize("tokenizer", ["13a", "char", "zh"])
def test_a_signature_names_its_tokenizer(tokenizer: str) -> None:
    scorer = scorers.bleu_scorer(tokenizer)
    scorer.corpus_score(["a"], [["a"]])
    assert scorers.tokenizer_of(f"bleu|{scorer.get_signature()}") == tokenizer


@pytest.mark.slow
def test_nothing_is_left_on_the_disk_and_nothing_is_fetched(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from finetune.metrics import compute\n"
        "compute.classification_metrics([0, 1], [0, 1], ['a', 'b'])\n"
        "compute.translation_metrics(['a b'], ['a b'], 'en')\n"
        "import sys\n"
        "assert 'evaluate' not in sys.modules\n"
    )
    clean = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf"), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=os.environ | clean, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_further_metric_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric script in the working directory stands in for one on the Hub."""
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "half.py").write_text(
        "import datasets\nimport evaluate\n"
        "class Half(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        value = datasets.Value('int64')\n"
        "        features = datasets.Features({'predictions': value, 'references': value})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        if predictions[0] == 9: raise ValueError('nine')\n"
        "        return {'half': sum(predictions) / 2, 'note': 'text'}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    found = compute.extra_metric("half/half.py", [1, 2], [0, 0])
    assert found == {"half": {"value": 1.5, "signature": f"half/half.py|evaluate:{evaluate.__version__}"}}
    with pytest.raises(UserError, match=r"'half/half\.py' cannot score these rows: nine"):
        compute.extra_metric("half/half.py", [9], [0])


@pytest.mark.parametrize(
    "error", [FileNotFoundError("no such script"), ConnectionError("no route"), ImportError("jiwer")]
)
def test_a_metric_that_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(evaluate, "load", load)
    with pytest.raises(UserError, match=f"cannot load the metric 'hub:wer': {error}.*Hub"):
        compute.extra_metric("hub:wer", ["a"], ["a"])
