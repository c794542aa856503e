"""Causal language models: what a window shows, what a step takes, and what is made of the answers."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

from finetune import objectives
from finetune.attention.swap import calls_by_kernel, swap
from finetune.attention.variants import get_variant
from finetune.data.collate import IGNORED
from finetune.data.packing import WindowPadding
from finetune.errors import UserError
from finetune.metrics.perplexity import perplexity_metrics
from finetune.models import causality
from finetune.models.builder import Built, build_model
from finetune.models.scratch import DECODERS, NEOX, train_tokenizer
from finetune.objectives import causal
from finetune.objectives.language import _sums
from finetune.positions import POSITIONS
from tests.support.records import run_config
from tests.support.tiny_models import FAMILIES, names

TEXT = "the name of the baker is told first, and asked for much later. " * 9
END = 1


def config_of(variant: str = "softmax", **over: Any) -> Any:
    model = {"name": "scratch:tiny", "vocab_size": 300, **over.pop("model", {})}
    return run_config(variant, kind="causal", task="books", pair=None, generation=None, model=model, **over)


def built_of(config: Any) -> Built:
    return build_model(config, objectives.of(config), iter([TEXT]), None)


def shaken(model: Any) -> Any:
    """The weights of a positional encoding moved from where they begin, many of them at 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if ".position." in name:
                weights.add_(0.3 * torch.randn_like(weights).abs())
    return model.eval()


DOCUMENTS = [[END, 31, 47, 5, 60, 22], [END, 9, 80, 11, 54, 33, 72, 15, 28], [END, 31, 47, 5]]


def in_one_window(model: Any, isolate: bool) -> torch.Tensor:
    window = [token for document in DOCUMENTS for token in document]
    batch = WindowPadding(0, END, isolate)([{"input_ids": window, "labels": window}])
    del batch["labels"]
    return model(**batch, use_cache=False).logits[0]


def alone(model: Any) -> torch.Tensor:
    return torch.cat([model(input_ids=torch.tensor([document])).logits[0] for document in DOCUMENTS])


CONSISTENT = [name for name in POSITIONS if name != "dapev2-kerple-published"]


@pytest.mark.parametrize("position", CONSISTENT)
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
@torch.no_grad()
def test_a_document_in_a_window_is_read_as_alone(variant: str, position: str) -> None:
    config = config_of(variant, model={"position": position}, language={"documents": "isolate"})
    built = built_of(config)
    assert built.tokenizer.eos_token_id == END
    model = shaken(built.model)
    torch.testing.assert_close(in_one_window(model, isolate=True), alone(model), rtol=0, atol=3e-6)
    assert (in_one_window(model, isolate=False) - alone(model)).abs().max() > 0.05


@pytest.mark.parametrize("family", names("decoder"))
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
@torch.no_grad()
def test_documents_are_isolated_in_every_family(family: str, variant: str) -> None:
    model = FAMILIES[family].build(vocab_size=90)
    swap(model, get_variant(variant))
    torch.testing.assert_close(in_one_window(model, isolate=True), alone(model), rtol=0, atol=1e-4)
    causality.check(family, model)
    causality.check_isolated(family, model)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_what_proves_an_encoding_is_no_call_of_the_training(variant: str, position: str) -> None:
    """Some of it is before the encoding is there, by a kernel that the training does not have."""
    built = built_of(config_of(variant, model={"position": position}))
    assert calls_by_kernel(built.base, variant) == {}
    built.model(input_ids=torch.tensor(DOCUMENTS[:1]))
    assert sum(calls_by_kernel(built.base, variant).values()) == built.base.config.num_hidden_layers


@pytest.mark.parametrize("position", POSITIONS)
def test_adapters_take_an_encoding_that_was_trained_and_no_new_one(position: str, tmp_path: Path) -> None:
    """They would leave it as it was drawn."""
    plain, encoded = tmp_path / "plain", tmp_path / "encoded"
    built = built_of(config_of())
    built.tokenizer.save_pretrained(plain)
    AutoModelForCausalLM.from_config(built.base.config).save_pretrained(plain)
    adapters = {"rank": 2, "alpha": 4, "dropout": 0.0, "target_modules": "all-linear"}
    whole = built_of(config_of(model={"name": str(plain), "position": position}))
    learns = any(".position." in name for name, _ in whole.base.named_parameters())
    new = config_of(model={"name": str(plain), "position": position, "lora": adapters})
    with pytest.raises(UserError, match=f"{position} is new in") if learns else nullcontext():
        built_of(new)
    whole.base.save_pretrained(encoded)
    whole.tokenizer.save_pretrained(encoded)
    adapted = built_of(config_of(model={"name": str(encoded), "lora": adapters}))
    assert any(".position." in name for name, _ in adapted.base.named_parameters()) == learns


def test_an_encoding_that_reads_masked_keys_isolates_nothing() -> None:
    model = {"position": "dapev2-kerple-published"}
    config = config_of(model=model, language={"documents": "isolate"})
    built = built_of(config)
    with pytest.raises(UserError, match="cannot isolate documents"):
        objectives.of(config).collator(built.tokenizer, built.model, config)
    with pytest.raises(UserError, match="sees the documents before"):
        causality.check_isolated("m", shaken(built.model))


def test_a_model_that_sees_what_it_predicts_is_refused() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 11}
    encoder = BertLMHeadModel(BertConfig(vocab_size=40, initializer_range=0.5, **sizes))
    with pytest.raises(UserError, match="sees the tokens that it is to predict"):
        causality.check("bert", encoder)
    encoder_decoder = FAMILIES["t5"].build()
    with pytest.raises(UserError, match="an encoder-decoder"):
        causality.check("t5", encoder_decoder)


def test_padding_shows_in_no_logit_and_no_sum() -> None:
    config = config_of()
    built = built_of(config)
    collate = objectives.of(config).collator(built.tokenizer, built.model, config)
    rows = [{"row": i, "input_ids": ids, "labels": [*ids[1:], 7]} for i, ids in enumerate(DOCUMENTS)]
    batch = collate(rows)
    assert set(batch) == {"input_ids", "labels"} and batch["input_ids"].shape == (3, 9)
    assert batch["labels"][0, 6:].tolist() == [IGNORED] * 3
    with torch.no_grad():
        together = _sums(built.model.eval()(input_ids=batch["input_ids"]).logits, batch["labels"])
        for row, sums in zip(rows, together, strict=True):
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
            logits = built.model(input_ids=ids).logits[0].double()
            nats = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].sum()
            assert sums[1] == len(labels) and sums[0] == pytest.approx(float(nats), rel=1e-6)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"language": {"tokens_per_step": 100}}, "set it to 96 or 112"),
        ({"language": {"tokens_per_step": 7}}, "set it to 16"),
        ({"train": {"per_device_train_batch_size": 3}}, "set train.per_device_train_batch_size to 4"),
        ({"train": {"per_device_train_batch_size": 64}}, "set train.per_device_train_batch_size to 8"),
        ({"language": {"scored_tokens": 40}}, "set it to 32 at most"),
        ({"language": {"stride": 17}}, "16, at most, or to null"),
    ],
)
def test_what_makes_no_step_or_no_score_is_one_line(over: dict[str, Any], message: str) -> None:
    base = {"tokens_per_step": 128, "eval_lengths": [32, 64], "scored_tokens": 8}
    config = config_of(
        data={"max_length": 16},
        language=base | over.get("language", {}),
        train={"per_device_train_batch_size": 4} | over.get("train", {}),
    )
    with pytest.raises(UserError) as error:
        objectives.get("causal").settled(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_step_takes_its_tokens_whatever_fits_into_memory() -> None:
    for batch, accumulated in ((1, 8), (2, 4), (8, 1)):
        config = config_of(
            data={"max_length": 16},
            language={"tokens_per_step": 128, "eval_lengths": []},
            train={"per_device_train_batch_size": batch},
        )
        assert objectives.get("causal").settled(config) == {"gradient_accumulation_steps": accumulated}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("language"), "needs the section language"),
        (lambda values: values["train"].update(gradient_accumulation_steps=2), "tokens_per_step: leave it"),
        (lambda values: values.update(generation={"num_beams": 1}), "a language model has none"),
        (lambda values: values["language"].update(masked_share=0.15), "masked_share is for"),
        (lambda values: values.update(data={"prefix": "say: "}), r"data\.prefix is not for a language model"),
        (lambda values: values.update(data={"max_target_length": 9}), r"data\.max_target_length is not for"),
    ],
)
def test_a_section_that_is_of_no_use_is_named(change: Callable[[Any], Any], message: str) -> None:
    values: dict[str, Any] = {"generation": None, "train": {}, "language": {"masked_share": None}}
    change(values)
    with pytest.raises(UserError, match=message):
        objectives.get("causal").check(values)


def test_sums_of_windows_become_those_of_documents() -> None:
    config = config_of(language={"eval_lengths": [32, 64, 128], "scored_tokens": 8})
    objective = objectives.get("causal")
    split = Dataset.from_dict(
        {"row": [4, 5, 9], "text": ["ä b\n\n", "c d e", "c d"], "document": ["x", "y", "x"]}
    )

    def window(document: int, length: int, nats: float | None, tokens: int, **why: str) -> dict[str, Any]:
        return {"document": document, "length": length, "nats": nats, "tokens": tokens, **why}

    predictions = dict(
        enumerate(
            [
                window(0, 0, 3.0, 2),
                window(1, 0, 4.0, 3),
                window(0, 0, 1.0, 1),
                window(0, 32, 2.0, 8),
                window(0, 32, 1.0, 8),
                window(0, 64, None, 0, missing="the model has positions for 40 tokens"),
            ]
        )
    )
    rows = objective.rows(split, predictions)
    assert rows == [
        {"row": 4, "document": "x", "nats": 4.0, "tokens": 3, "bytes": 9, "words": 4,
         "by_length": {"32": [3.0, 16]}, "missing": {"64": "the model has positions for 40 tokens"}},
        {"row": 5, "document": "y", "nats": 4.0, "tokens": 3, "bytes": 5, "words": 3, "by_length": {}},
    ]  # fmt: skip
    scores = objective.score(rows, config, labels=None, tokenizer="t", generation=None)
    assert scores["perplexity"]["value"] == pytest.approx(torch.tensor(8 / 6).exp().item())
    assert next(iter(scores)) == "perplexity"
    assert scores["perplexity@32"]["value"] == pytest.approx(torch.tensor(3 / 16).exp().item())
    assert scores["perplexity@64"] == {"value": None, "missing": "the model has positions for 40 tokens"}
    assert "no document has 128 tokens" in scores["perplexity@128"]["missing"]
    length, language = config.data.max_length, config.language
    known = perplexity_metrics(
        rows,
        tokenizer="t",
        length=length,
        stride=None,
        scored_tokens=language.scored_tokens,
        eval_lengths=language.eval_lengths,
        test_windows=language.test_windows,
    )
    assert scores["bits_per_byte"] == known["bits_per_byte"]


def peak_bytes(model: Any, length: int) -> int:
    """Bytes allocated at once by a forward pass over one window."""
    ids = torch.arange(length)[None] % 250
    with (
        torch.no_grad(),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile,
    ):
        model.eval()(input_ids=ids, use_cache=False)
    events = profile.profiler.kineto_results.events()
    return int(max(accumulate(each.nbytes() for each in events if each.name() == "[memory]")))


@pytest.mark.parametrize("position", POSITIONS)
def test_a_window_takes_the_bias_of_its_encoding(position: str) -> None:
    """At each pair of tokens, in float32; the memory of the same model without an encoding is taken off."""
    length, none = 256, peak_bytes(built_of(config_of(model={"position": "none"})).model, 256)
    config = config_of(model={"position": position})
    model = built_of(config).model
    logits = causal.COPIES * 4 * model.config.vocab_size * length
    bias = sum(causal._window_bytes(config, model, length)) - logits
    taken = peak_bytes(model, length) - none
    if POSITIONS[position].kept(2):
        assert taken <= bias <= 2.2 * taken
    else:
        assert bias == 0 and taken < 4 * length**2


@pytest.mark.parametrize(("position", "shared"), [("kerple", 2), ("fire", 74), ("dape-kerple", 0)])
def test_a_bias_that_is_written_out_is_counted_once_or_by_window(position: str, shared: int) -> None:
    config = config_of(model={"position": position}, attention={"kernel": "reference"})
    each, once = causal._window_bytes(config, built_of(config).model, 64)
    assert once == 4 * shared * 64**2  # numbers a pair of tokens, of two heads
    assert (each > causal.COPIES * 4 * 300 * 64) == (not shared)


def test_why_a_window_does_not_fit_is_the_same_whatever_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(model={"position": "fire"}, language={"eval_lengths": [64], "scored_tokens": 8})
    model, rows = built_of(config).model, Dataset.from_dict({"row": [7], "document": [0], "length": [64]})
    trainer = SimpleNamespace(
        args=SimpleNamespace(per_device_eval_batch_size=2, device=torch.device("cpu")),
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        model=model,
    )
    answers = []
    needed = sum(causal._window_bytes(config, model, 64))
    for free in (0, needed - 1):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=free: SimpleNamespace(available=free))
        answers.append(objectives.of(config)._at_length(config, trainer, rows, 64, "test_64"))  # type: ignore[attr-defined]
    assert answers[0] == answers[1] and answers[0][7]["nats"] is None
    known = {**answers[0][7], "nats": 3.0, "tokens": 8}
    assert objectives.of(config).agree(known, answers[0][7], half=False)
    assert objectives.of(config).agree(answers[0][7], {**known, "nats": None, "missing": "else"}, half=False)
    assert not objectives.of(config).agree(known, {**known, "nats": 4.0}, half=False)


def test_a_text_is_written_as_it_was_read() -> None:
    """To the byte: no space before it, no lower case, no control word that the text itself holds."""
    config = config_of()
    tokenizer = built_of(config).tokenizer
    for text in ("The end.<|endoftext|> And<|padding|> on", " Two  spaces", "ÄÖ\t\n", "x"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


# Parameters of a GPT-NeoX decoder: two tables of the vocabulary, and in each of n layers of width d, 12 d^2
# weights, 13 d biases and scales, with the last norm's 2 d.
@pytest.mark.parametrize("size", DECODERS)
def test_sizes_have_their_parameters(size: str) -> None:
    tokenizer = train_tokenizer(NEOX.recipe, iter([TEXT]), 300)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(NEOX.configure(tokenizer, 2048, **DECODERS[size]))
    layers, width = model.config.num_hidden_layers, model.config.hidden_size
    entries = len(tokenizer)
    assert sum(p.numel() for p in model.parameters()) == (
        2 * entries * width + layers * (12 * width**2 + 13 * width) + 2 * width
    )
    assert not model.config.use_parallel_residual and not model.config.tie_word_embeddings
    assert model.config.rope_parameters["partial_rotary_factor"] == 1.0
    assert model.config.hidden_dropout == model.config.attention_dropout == 0.0


def test_the_sizes_are_those_of_their_names() -> None:
    """With GPT-2's vocabulary of 50,257 entries."""
    for name, millions in (("125m", 162), ("350m", 405), ("1.3b", 1414), ("2.7b", 2775)):
        sizes = DECODERS[name]
        layers, width = sizes["num_hidden_layers"], sizes["hidden_size"]
        count = 2 * 50257 * width + layers * (12 * width**2 + 13 * width) + 2 * width
        assert round(count / 1e6) == millions


def _of(normalizer: Any, pre_tokenizer: Any, decoder: Any, first: str = "") -> Any:
    """A tokenizer with an entry for each of the bytes of ``TEXT``, and for as many others."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    entries = ["<end>", "<unk>", *sorted({*alphabet, *TEXT, first} - {""})]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(entries)}, [], unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="<unk>")


def _bytes(normalizer: Any = None) -> Any:
    return _of(normalizer, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())


def _pieces() -> Any:
    """As SentencePiece's: a space before every text, which is taken away again."""
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    back = [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _of(normalizers.Sequence(spaces), None, decoders.Sequence(back), first="\u2581")


@pytest.mark.parametrize(
    ("tokenizer", "text", "told"),
    [
        (_bytes(), "Großer  Titel\n\n\tx \U0001f408 ", None),
        (_pieces(), " the baker  of the name", None),
        (_bytes(normalizers.Lowercase()), "the name Of it", "'the name of it' for 'the name Of it'"),
        (_bytes(normalizers.NFKC()), "the \ufb01rst", "'the first' for 'the \ufb01rst'"),
        (_pieces(), "the name Ша", "the name <unk>"),
    ],
    ids=["bytes", "pieces", "small letters", "ligatures", "unknown letters"],
)
def test_a_tokenizer_that_loses_something_of_a_text_is_told_of(
    tokenizer: Any, text: str, told: str | None
) -> None:
    """What it loses costs no nats, and its bytes and words count all the same."""
    config, built = config_of(model={"name": "m"}), SimpleNamespace(tokenizer=tokenizer)
    notes = objectives.get("causal").notes(config, built, Dataset.from_dict({"text": [TEXT, text]}))
    assert len(notes) == (told is not None)
    for note in notes:
        assert told in note and "bits_per_byte" in note and "\n" not in note
