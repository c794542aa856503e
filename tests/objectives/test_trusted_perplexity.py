"""A stock model's perplexity, from texts to metrics: as by transformers' recipe and lm-evaluation-harness."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune import objectives
from finetune.models.builder import build_model
from finetune.models.scratch import NEOX, train_tokenizer
from finetune.training import loop
from tests.support.records import run_config
from tests.support.tiny_models import FAMILIES

LENGTH = 16
TEXT = (
    "the name of the baker is told first, and asked for later.\n\n = Ein  Titel = \n\n na\u00efve \U0001f408 "
)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a decoder with learned positions, which transformers alone could have made."""
    folder = tmp_path_factory.mktemp("stock")
    tokenizer = train_tokenizer(NEOX.recipe, iter([TEXT]), 300)
    ids = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "eos")}
    model = FAMILIES["gpt2"].build(vocab_size=len(tokenizer), bos_token_id=ids["eos_token_id"], **ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ours(folder: Path, texts: list[str], stride: int | None, tmp_path: Path) -> tuple[Any, dict[str, float]]:
    """The rows of predictions.jsonl and the metrics of these documents, as a run has them."""
    config = run_config(
        "softmax", kind="causal", task="books", pair=None, generation=None, data={"max_length": LENGTH},
        model={"name": str(folder), "dropout": None, "attention_dropout": None},
        language={"stride": stride, "eval_lengths": [], "tokens_per_step": 4 * LENGTH},
        train={"per_device_train_batch_size": 4},
    )  # fmt: skip
    objective = objectives.of(config)
    built = build_model(config, objective, iter(()), None)
    split = Dataset.from_dict({"row": list(range(len(texts))), "text": texts})
    tokens = objective.tokenize(split, "test", built.tokenizer, config)
    rows = objective.rows(split, loop.answers(config, objective, built, tokens, tmp_path).predictions)
    scores = objective.score(rows, config, labels=None, tokenizer="", generation=None)
    return rows, {name: score["value"] for name, score in scores.items()}


@torch.no_grad()
def recipe(folder: Path, text: str, length: int, stride: int) -> float:
    """Perplexity as the documentation of transformers computes it of a text ("Perplexity of fixed-length
    models"): windows of ``length`` tokens, of which the model's own loss is of those that are new."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    nats = tokens = end_before = 0
    for begin in range(0, ids.size(1), stride):
        end = min(begin + length, ids.size(1))
        window, labels = ids[:, begin:end], ids[:, begin:end].clone()
        labels[:, : end_before - begin] = -100  # in the first window nothing
        count = int((labels[:, 1:] != -100).sum())  # the model moves them by one
        nats += float(model(window, labels=labels).loss) * count
        tokens, end_before = tokens + count, end
        if end == ids.size(1):
            break
    return math.exp(nats / tokens)


@pytest.mark.parametrize("stride", [LENGTH, 5])
def test_a_stock_model_gives_what_the_recipe_of_transformers_gives(
    stock: Path, stride: int, tmp_path: Path
) -> None:
    """Of a text that the end-of-text token begins, in windows with one token more, which has no answer."""
    tokenizer = AutoTokenizer.from_pretrained(stock)
    # The recipe's last window is shorter, where ours is not: so a text of a whole number of windows.
    beginnings = ((TEXT * 9)[:count] for count in range(len(TEXT * 9), 0, -1))
    text = next(each for each in beginnings if (len(tokenizer(each)["input_ids"]) - LENGTH) % stride == 0)
    rows, found = ours(stock, [text], None if stride == LENGTH else stride, tmp_path)
    assert rows[0]["tokens"] > 9 * LENGTH
    expected = recipe(stock, f"{tokenizer.eos_token}{text}", LENGTH + 1, stride)
    assert found["perplexity"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_stock_model_gives_what_lm_evaluation_harness_gives(stock: Path, tmp_path: Path) -> None:
    reason = "lm-evaluation-harness is not installed: pip install lm_eval"
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason=reason)
    instance = pytest.importorskip("lm_eval.api.instance", reason=reason).Instance
    metrics = pytest.importorskip("lm_eval.api.metrics", reason=reason)
    texts = [TEXT * 9, "x", TEXT, TEXT[:20] * 4]
    harness = huggingface.HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(stock),
        tokenizer=AutoTokenizer.from_pretrained(stock),
        max_length=LENGTH,
        batch_size=1,
    )
    requests = [instance("loglikelihood_rolling", {}, (text,), n) for n, text in enumerate(texts)]
    likelihoods = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    rows, found = ours(stock, texts, None, tmp_path)
    assert [-row["nats"] for row in rows] == pytest.approx(likelihoods, rel=1e-5)
    sizes = [len(text.encode()) for text in texts]
    expected = metrics.bits_per_byte(list(zip(likelihoods, sizes, strict=True)))
    assert found["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
