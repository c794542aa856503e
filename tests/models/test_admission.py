"""A base model is not taken on trust: families x faults, and what is found before the first run of a grid."""

import json
import logging
import re
from types import SimpleNamespace

import pytest
import torch
import transformers
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    GenerationMixin,
    PreTrainedTokenizerFast,
)

import finetune.studies.preflight
from finetune.errors import UserError
from finetune.models import admission, model_files
from finetune.models.builder import build_model
from finetune.models.model_files import check_tokenizer
from finetune.models.pretrained import explain
from finetune.objectives import get, of
from finetune.records import store
from finetune.training import rehearsal
from tests.support.configurations import configuration
from tests.support.pretrained_models import (
    POSITIONS,
    TEXTS,
    as_an_old_checkpoint,
    change_json,
    change_weights,
    in_shards,
    kind_of,
    save,
)
from tests.support.small_runs import run
from tests.support.tiny_models import FAMILIES, all_but_few_slow, names

LABELS = ("one", "two", "three")
OWN_DROPOUT = {"dropout": None, "attention_dropout": None}


def build(folder, family="bert", labels=LABELS, **overrides):
    kind = kind_of(family)
    config = configuration(kind, model={"name": str(folder), **OWN_DROPOUT}, **overrides)
    return build_model(config, of(config), iter(()), labels if kind == "classification" else None)


def prefixed(prefix):
    return lambda folder: change_weights(folder, lambda w: {prefix + key: w[key] for key in w})


def without_a_layer(weights):
    return {key: value for key, value in weights.items() if ".1." not in key}


def with_nan(weights):
    key = next(key for key in sorted(weights) if ".0." in key)
    return {**weights, key: weights[key] * float("nan")}


def as_integers(weights):
    return {key: (value * 9).to(torch.int8) if value.ndim == 2 else value for key, value in weights.items()}


def remove_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


WEIGHTS = {
    "module.": (prefixed("module."), "the prefix 'module.'"),
    "_orig_mod.": (prefixed("_orig_mod."), "the prefix '_orig_mod.'"),
    "missing layer": (lambda folder: change_weights(folder, without_a_layer), "would be random"),
    "NaN": (lambda folder: change_weights(folder, with_nan), "NaN or infinite"),
    "vocabulary": (lambda folder: change_json(folder / "config.json", vocab_size=310), "shape"),
    "no tokenizer": (remove_tokenizer, "has no tokenizer"),
}


@pytest.mark.parametrize("fault", WEIGHTS)
@pytest.mark.parametrize("family", all_but_few_slow())
def test_no_family_trains_on_weights_that_are_in_no_file(tmp_path, family, fault):
    if (family, fault) == ("albert", "missing layer"):
        pytest.skip("ALBERT's layers are one")
    spoil, said = WEIGHTS[fault]
    spoil(save(family, tmp_path))
    with pytest.raises(UserError, match=re.escape(said)):
        build(tmp_path, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_admitted_and_only_a_head_is_new(tmp_path, family):
    new = build(save(family, tmp_path), family).info["new_weights"]
    if kind_of(family) == "translation":
        assert new == []
    assert all(key.split(".")[0] in HEADS or "pooler" in key for key in new)


@pytest.mark.parametrize("layout", [as_an_old_checkpoint, in_shards])
@pytest.mark.parametrize("family", all_but_few_slow())
def test_no_layout_of_a_whole_checkpoint_is_refused(tmp_path, family, layout):
    layout(save(family, tmp_path))
    targets = rows(3, labels=[[5] * 4]) if kind_of(family) == "translation" else None
    written = {"generation": {"max_new_tokens": 9}} if targets else {}
    assert admit(tmp_path, family, targets, **written) == []


HEADS = {"classifier", "pre_classifier", "head", "score"}


def fewer_layers(folder):
    change_json(folder / "config.json", num_hidden_layers=1)


def fewer_positions(folder):
    change_json(folder / "config.json", max_position_embeddings=16)


def cut_off(size):
    def cut(folder):
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return cut


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def set_config(**values):
    return lambda folder: change_json(folder / "config.json", **values)


def set_generation(**values):
    return lambda folder: change_json(folder / "generation_config.json", **values)


def set_tokenizer(**values):
    return lambda folder: change_json(folder / "tokenizer_config.json", **values)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FILES = {
    "more layers than said": (fewer_layers, "a layer that its config.json does not have"),
    "other positions": (fewer_positions, "position_embeddings.weight"),
    "cut header": (cut_off(90), "invalid header length"),
    "cut weights": (cut_off(9000), "not fully covered"),
    "empty": (cut_off(0), "header too small"),
    "weights to come": (write("model.safetensors", POINTER), "git lfs pull"),
    "tokenizer to come": (write("tokenizer.json", POINTER), "git lfs pull"),
    "web page": (write("model.safetensors", "<html>404</html>"), "cannot load the model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named"),
    "TensorFlow": (lambda f: (f / "model.safetensors").rename(f / "tf_model.h5"), "no file named"),
    "no heads": (set_config(num_attention_heads=0), "num_attention_heads"),
    "text": (set_config(vocab_size="many"), "vocab_size"),
    "null": (set_config(vocab_size=None), "vocab_size"),
    "huge": (set_config(vocab_size=10**30), "vocab_size"),
    "more than the memory": (set_config(vocab_size=2 * 10**9), "GiB"),
    "a billion layers": (set_config(num_hidden_layers=10**9), "at most 1000"),
    "unknown type": (set_config(model_type="mine"), "mine"),
    "a list": (write("config.json", "[1]"), "cannot load the model"),
    "cut configuration": (write("config.json", '{"model_type": "be'), "config.json is no JSON"),
    "cut tokenizer": (write("tokenizer.json", '{"version": "1.0", "mod'), "cannot load the model"),
    "quantised": (set_config(quantization_config={"quant_method": "gptq"}), "is quantized"),
    "integers": (lambda folder: change_weights(folder, as_integers), "whole numbers alone"),
    "no pad": (set_config(pad_token_id=7), "pads with token 7"),
}


def all_zero(weights):
    return {key: value * 0 for key, value in weights.items()}


def in_eight_bits(weights):
    return {key: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for key, v in weights.items()}


def beside(file, change=lambda value: value):
    """A second set of the weights in ``file``, each of which went through ``change``."""

    def add(folder):
        weights = load_file(folder / "model.safetensors")
        if file.endswith(".bin"):
            torch.save({key: change(value) for key, value in weights.items()}, folder / file)
            return
        in_shards(folder)
        save_file({key: change(value) for key, value in weights.items()}, folder / file, {"format": "pt"})

    return add


def pickled(content):
    def write_pickle(folder):
        torch.save(content(folder), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    return write_pickle


def cut_pickle(folder):
    as_an_old_checkpoint(folder)
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-900])


def in_tokenizer(change):
    """``change`` lays its hand on what tokenizer.json holds."""

    def spoil(folder):
        file = folder / "tokenizer.json"
        held = json.loads(file.read_text())
        change(held)
        file.write_text(json.dumps(held))

    return spoil


def number_two_alike(held):
    held["model"]["vocab"][list(held["model"]["vocab"])[-1]] = 7


unframed = in_tokenizer(lambda held: held.update(post_processor=None))
FILES |= {
    "adapters": (write("adapter_config.json", '{"peft_type": "LORA"}'), "holds adapters"),
    "another set, pickled": (beside("pytorch_model.bin", lambda v: v * 2), "holds two models"),
    "another set, in shards": (beside("model.safetensors", lambda v: v * 2), "holds two models"),
    "cut pickle": (cut_pickle, "cut off or damaged"),
    "a pickled model": (pickled(AutoModel.from_pretrained), "a pickle that holds more than weights"),
    "a pickled list": (pickled(lambda _: [1]), "cannot load the model"),
    "eight bits": (lambda folder: change_weights(folder, in_eight_bits), "is kept as F8_E4M3"),
    "zeros": (lambda folder: change_weights(folder, all_zero), "holds 0 everywhere"),
    "RoBERTa by name": (set_config(model_type="roberta"), "architectures BertModel, which is of bert"),
    "GPT-2 by architecture": (set_config(architectures=["GPT2LMHeadModel"]), "which is of gpt2"),
    "no frame": (unframed, "frames no text with its first token [CLS]"),
    "two alike": (in_tokenizer(number_two_alike), "several entries of one number"),
    "no padding": (set_tokenizer(pad_token=None), "neither a padding nor an end token"),
}


@pytest.mark.parametrize("fault", FILES)
def test_files_that_hold_no_model_are_one_line(tmp_path, fault):
    spoil, said = FILES[fault]
    spoil(save("bert", tmp_path))
    with pytest.raises(UserError, match=re.escape(said)):
        admit(tmp_path)


@pytest.mark.parametrize(
    "layout",
    [
        beside("pytorch_model.bin"),
        beside("pytorch_model.bin", torch.Tensor.half),
        beside("model.safetensors"),
        write("tf_model.h5", POINTER),
        write("pytorch_model.bin", POINTER),
        set_config(architectures=["BertForQuestionAnswering"]),
        set_config(architectures=["Mine"]),
        set_config(architectures=None),
        set_config(return_dict=False),
    ],
)
def test_what_stands_beside_a_whole_model_is_no_fault(tmp_path, layout):
    layout(save("bert", tmp_path))
    assert admit(tmp_path) == []


@pytest.mark.parametrize("fault", ["module.", "missing layer", "other positions"])
def test_a_refusal_is_all_that_is_said(tmp_path, fault):
    """transformers reports a loading on tens of lines, on the error output of the process."""
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logging.getLogger("transformers").addHandler(handler)
    (WEIGHTS | FILES)[fault][0](save("bert", tmp_path))
    try:
        with pytest.raises(UserError):
            build(tmp_path)
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert said == []


@pytest.mark.parametrize("family", names("seq2seq"))
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unframed, "frames no text with the end token </s>"),
        (set_generation(decoder_start_token_id=-1), "decoder_start_token_id: -1, which is none of its"),
        (set_generation(eos_token_id=[3, 10**6]), "eos_token_id: 1000000, which is none of its"),
        (set_generation(forced_bos_token_id="x"), "forced_bos_token_id: 'x', which is none of its"),
        (set_generation(bad_words_ids=[[5], [10**6]]), "bad_words_ids: 1000000, which is none of its"),
        (set_generation(decoder_start_token_id=5), "starts a translation with token 0 while it trains"),
        (set_generation(decoder_start_token_id=None), "starts a translation with token 0 while it trains"),
    ],
)
def test_a_translation_starts_and_ends_as_in_training(tmp_path, family, spoil, said):
    spoil(save(family, tmp_path))
    if family == "mbart" and "while it trains" in said:
        pytest.skip("mBART starts with the last token of the target, its language")
    with pytest.raises(UserError, match=re.escape(said)):
        admit(tmp_path, family, rows(3, labels=[[5] * 4]), generation={"max_new_tokens": 9})


@pytest.mark.parametrize("family", ["t5", "bart", "mbart"])
def test_an_encoder_decoder_that_classifies_reads_its_end_token(tmp_path, family):
    save(family, tmp_path)

    def admitted():
        config = configuration("classification", model={"name": str(tmp_path), **OWN_DROPOUT})
        built = build_model(config, of(config), iter(()), LABELS)
        return admission.check(config, of(config), built, {"train": tokenized(built.tokenizer)})

    assert admitted() == []
    unframed(tmp_path)
    with pytest.raises(UserError, match="frames no text with the end token </s>"):
        admitted()


def tokenized(tokenizer):
    ids = tokenizer(["one two three", "four"])["input_ids"]
    return Dataset.from_dict({"input_ids": ids, "labels": [0, 1], "row": [0, 1]})


def word_pieces(*words, lowercase, **special):
    """BERT's kind of tokenizer, which splits at spaces."""
    pieces = models.WordPiece(
        {word: i for i, word in enumerate(["[PAD]", "[UNK]", *words])}, unk_token="[UNK]"
    )
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", **special)


def test_a_cased_vocabulary_is_read_with_its_capitals():
    words = [*"abcdefghijklmnopqrstuvwxyz", "the", "The", "House", "house", "Paris"]
    pieces = [*words, *(f"##{word}" for word in words)]
    check_tokenizer("x", word_pieces(*pieces, *"TPH", lowercase=False))
    check_tokenizer("x", word_pieces(*(w for w in pieces if w == w.lower()), lowercase=True))
    with pytest.raises(UserError, match="puts every text into small letters, and 6 entries"):
        check_tokenizer("x", word_pieces(*pieces, lowercase=True, unk_token="[UNK]"))


@pytest.mark.parametrize("special", [{}, {"unk_token": "[UNK]"}, {"unk_token": "[PAD]"}])
def test_unknown_tokens_are_known_by_what_the_tokenizer_writes(special):
    tokenizer = word_pieces("one", lowercase=True, **special)
    assert tokenizer("two")["input_ids"] == [admission._unknown_token(tokenizer)] == [1]


def test_a_tokenizer_much_smaller_than_the_embedding_is_worth_a_word(tmp_path):
    save("bert", tmp_path, vocab_size=400)
    (note,) = admit(tmp_path)
    assert note.startswith("note: ") and "has 299 entries and the model's embedding 400" in note


def test_a_tokenizer_writes_what_it_has_read(tmp_path):
    texts = ["One two three four five", "Six seven eight nine ten"]
    pairs = Dataset.from_dict({"source": texts, "target": texts})
    config = configuration("translation", model={"name": str(tmp_path), **OWN_DROPOUT})

    def best():
        built = build_model(config, of(config), iter(()), None)
        return of(config).notes(config, built, pairs)

    save("bart", tmp_path)
    assert best() == []
    in_tokenizer(lambda held: held.update(normalizer={"type": "Lowercase"}))(tmp_path)
    assert len(best()) == 1 and "('one two three four five' for 'One two three four five')" in best()[0]
    in_tokenizer(lambda held: held.update(decoder=None))(tmp_path)
    with pytest.raises(UserError, match=r"a perfect model would have 0\.0 BLEU"):
        best()


@pytest.mark.parametrize(
    ("kind", "lengths"),
    [
        ("classification", {"data": {"max_length": 700}}),
        ("translation", {"data": {"max_length": 700}}),
        ("translation", {"data": {"max_target_length": 700}}),
        ("translation", {"generation": {"max_new_tokens": 700}}),
    ],
)
def test_a_scratch_model_has_positions_for_all_that_it_reads_and_writes(kind, lengths, monkeypatch):
    labels = LABELS if kind == "classification" else None
    model = build_model(configuration(kind, **lengths), get(kind), iter(TEXTS), labels).base
    there = admission.positions(model)
    assert {there.encoder, there.decoder} - {None} == {700}
    monkeypatch.setattr(model_files.psutil, "virtual_memory", lambda: SimpleNamespace(total=2**20))
    with pytest.raises(UserError, match=r"scratch:tiny.* describes a model of .* GiB"):
        build_model(configuration(kind, **lengths), get(kind), iter(TEXTS), labels)


def test_a_rehearsal_predicts_too(tmp_path, monkeypatch, capsys):
    """What is found only then was found after the whole training, in every arm."""

    def generate(*_, **__):
        raise ValueError("no way to write")

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    assert run("translate", tmp_path / "runs", "--train.max_steps", "2") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "ValueError: no way to write" in told[0]
    assert not (tmp_path / "runs").exists()


def test_a_model_that_gives_no_numbers_is_found_before_its_run(tmp_path, capsys):
    base = save("llama", tmp_path / "base")
    change_json(base / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 0})
    options = ["--model", str(base), "--model.dropout", "null", "--attention", "softmax"]
    assert run("classify", tmp_path / "runs", *options) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "gives NaN before it is trained" in told[0]
    assert not (tmp_path / "runs").exists()


def rows(*lengths, first=5, labels=0):
    return Dataset.from_dict(
        {
            "input_ids": [[first] * length for length in lengths],
            "labels": [labels] * len(lengths) if isinstance(labels, int) else labels,
        }
    )


def admit(folder, family="bert", split=None, **overrides):
    kind = kind_of(family)
    model = {"name": str(folder), **OWN_DROPOUT}
    config = configuration(kind, **{"model": model, **overrides})
    built = build_model(config, of(config), iter(()), LABELS if kind == "classification" else None)
    return admission.check(config, of(config), built, {"train": split or rows(3, 4)})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_limit_of_positions_is_the_model_s_own(family):
    """At the limit the model computes, one token beyond it does not; without a limit it goes on."""
    model = FAMILIES[family].build()
    limit = admission.positions(model)
    assert limit.decoder == limit.encoder or FAMILIES[family].kind != "seq2seq"
    known = limit.encoder or POSITIONS

    def compute(length):
        ids = torch.full((1, length), 5)
        decoder = {"decoder_input_ids": ids} if FAMILIES[family].kind == "seq2seq" else {}
        with torch.no_grad():
            return model(input_ids=ids, **decoder)

    compute(known)
    if limit.encoder is None:
        compute(3 * POSITIONS)
    else:
        with pytest.raises((IndexError, RuntimeError)):
            compute(known + 1)


@pytest.mark.parametrize("family", names("encoder", "decoder"))
def test_rows_longer_than_the_positions_are_refused(tmp_path, family):
    save(family, tmp_path)
    limit = admission.positions(build(tmp_path, family).base).encoder
    if limit is None:
        assert admit(tmp_path, family, rows(3 * POSITIONS)) == []
        return
    assert admit(tmp_path, family, rows(limit), data={"max_length": 4 * limit}) == []
    with pytest.raises(UserError, match=f"{limit + 1} tokens .* set --data.max_length {limit}"):
        admit(tmp_path, family, rows(limit + 1))
    padded = {"data": {"max_length": limit + 1}, "batches": {"padding": "max_length"}}
    with pytest.raises(UserError, match=r"data\.max_length"):
        admit(tmp_path, family, rows(3), **padded)


@pytest.mark.parametrize("model", ["OPT", "BioGpt"])
def test_the_table_of_a_decoder_alone_is_the_limit_of_its_rows(model):
    """OPT's is found below a part called decoder."""
    sizes = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    stock = getattr(transformers, f"{model}Config")(**sizes, max_position_embeddings=POSITIONS)
    built = SimpleNamespace(base=getattr(transformers, f"{model}ForSequenceClassification")(stock))
    limit = max(filter(None, vars(admission.positions(built.base)).values()))
    admission._check_lengths(configuration("classification"), built, {"test": rows(limit)})
    with pytest.raises(UserError, match=f"{limit + 1} tokens .* set --data.max_length {limit}"):
        admission._check_lengths(configuration("classification"), built, {"test": rows(limit + 1)})


@pytest.mark.parametrize("family", names("seq2seq"))
def test_targets_and_translations_have_positions(tmp_path, family):
    save(family, tmp_path)
    limit = admission.positions(build(tmp_path, family).base).decoder
    short, long = rows(3, labels=[[5] * 4]), rows(3, labels=[[5] * (POSITIONS + 9)])
    shortly, at_length = {"max_new_tokens": 9}, {"max_new_tokens": POSITIONS + 9}
    assert admit(tmp_path, family, short, generation=shortly) == []
    if limit is None:
        assert admit(tmp_path, family, long, generation=at_length) == []
        return
    with pytest.raises(UserError, match=r"data\.max_target_length"):
        admit(tmp_path, family, long, generation=shortly)
    with pytest.raises(UserError, match=r"generation\.max_new_tokens"):
        admit(tmp_path, family, short, generation=at_length)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("t5", "does not say which token a translation starts with"),
        ("bart", "does not say which token a translation starts with"),
        ("marian", "Validation error for field 'decoder_start_token_id'"),  # its configuration refuses that
    ],
)
def test_a_translation_starts_with_a_token(tmp_path, family, said):
    save(family, tmp_path)
    for name in ("config.json", "generation_config.json"):
        change_json(tmp_path / name, decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(UserError, match=said):
        admit(tmp_path, family, rows(3, labels=[[5] * 4]), generation={"max_new_tokens": 9})


def test_a_decoder_pads_with_its_tokenizer_s_token(tmp_path):
    change_json(save("gpt2", tmp_path) / "config.json", pad_token_id=None)
    change_json(tmp_path / "tokenizer_config.json", pad_token=None, eos_token="[SEP]")
    assert admit(tmp_path, "gpt2") == []


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'x'", name="tiktoken"),
        ImportError("\nT5Tokenizer requires the tiktoken library but it was not found"),
        ImportError("You need it: pip install tiktoken"),
    ],
)
def test_a_missing_package_is_named(error):
    with pytest.raises(UserError, match="type 'pip install tiktoken'"), explain("x"):
        raise error


def test_a_fault_of_our_own_keeps_its_traceback_and_another_says_where_it_is(monkeypatch, tmp_path):
    def fault(*_):
        raise KeyError("ours")

    monkeypatch.setattr(rehearsal, "_rehearse", fault)
    fault.__code__ = fault.__code__.replace(co_filename=rehearsal.__file__)
    with pytest.raises(KeyError):
        rehearsal.rehearse([configuration("classification")], None)
    fault.__code__ = fault.__code__.replace(co_filename="transformers.py")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"a first step of .* \(in transformers\.py, line \d+; traceback in "):
        rehearsal.rehearse([configuration("classification")], None)
    assert "KeyError: 'ours'" in (tmp_path / "cache" / rehearsal.ERROR_FILE).read_text()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"transformers\.py, line \d+\)$"):
        rehearsal.rehearse([configuration("classification")], None)


def test_tokens_without_a_place_in_the_embedding_are_refused(tmp_path):
    save("bert", tmp_path)
    assert admit(tmp_path, split=rows(3, first=298)) == []
    with pytest.raises(UserError, match=r"token 299 .* 299 rows of the model's embedding"):
        admit(tmp_path, split=rows(3, first=299))


@pytest.mark.parametrize(("share", "verdict"), [(0, "nothing"), (4, "note"), (30, "refused")])
def test_unknown_tokens_are_counted_without_the_special_ones(tmp_path, share, verdict):
    folder = save("bert", tmp_path, max_position_embeddings=128)
    unknown = build(folder).tokenizer.unk_token_id
    split = Dataset.from_dict(
        {"input_ids": [[2, *[unknown] * share, *[9] * (100 - share), 3]], "labels": [0]}
    )
    if verdict == "refused":
        with pytest.raises(UserError, match=r"does not know 30.0% of the tokens"):
            admit(folder, split=split)
    else:
        assert len(admit(folder, split=split)) == (verdict == "note")


def trained(folder, labels, **config):
    """A BERT with a trained head that tells ``labels`` apart."""
    save("bert", folder)
    names = dict(enumerate(labels))
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, id2label=names, label2id={name: index for index, name in names.items()}, **config
    )
    model.save_pretrained(folder)
    return model.classifier.weight.detach()


def test_a_trained_head_is_kept_put_in_order_or_made_anew(tmp_path):
    before = trained(tmp_path, ("Three", "one", "two"))
    mapped = build(tmp_path)
    assert torch.equal(mapped.base.classifier.weight.detach(), before[[1, 2, 0]])
    assert "stood in the order Three, one, two" in mapped.info["head"]
    kept = build(tmp_path, labels=("Three", "one", "two"))
    assert torch.equal(kept.base.classifier.weight.detach(), before)
    anew = build(tmp_path, labels=("a", "b", "c"))
    assert not torch.isin(anew.base.classifier.weight.detach(), before).any()
    assert anew.info["head"].startswith("new: the head in its files tells Three, one, two apart")


@pytest.mark.parametrize("count", [2, 4])
def test_a_head_of_another_number_of_classes_is_made_anew_whole(tmp_path, count):
    """RoBERTa's has two layers, of which only the last has a row a class."""
    save("roberta", tmp_path)
    before = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=count)
    before.save_pretrained(tmp_path)
    found = build(tmp_path, "roberta")
    assert not torch.equal(found.base.classifier.dense.weight, before.classifier.dense.weight)
    assert found.info["head"].startswith("new: the head in its files tells LABEL_0, LABEL_1")
    assert {"classifier.dense.weight", "classifier.out_proj.bias"} <= set(found.info["new_weights"])


def test_a_head_goes_by_the_names_that_data_go_by(tmp_path):
    """As the Hub writes them; a sign tells two labels apart."""
    before = trained(tmp_path, ("2 STAR", "1_star", "3 stars"))
    mapped = build(tmp_path, labels=("1 star", "2 stars", "3 stars"))
    assert torch.equal(mapped.base.classifier.weight.detach(), before[[1, 0, 2]])
    assert build(tmp_path, labels=("-1 star", "2 stars", "3 stars")).info["head"].startswith("new:")


def test_every_classifier_is_trained_on_one_class_a_row(tmp_path):
    trained(tmp_path, LABELS, problem_type="regression")
    found = build(tmp_path)
    assert found.base.config.problem_type == "single_label_classification"
    assert "regression" in found.info["problem_type"]


def test_the_weights_of_a_seed_do_not_depend_on_the_checks(tmp_path):
    """The head is drawn right after the seed is set, whatever was built to look at the configuration."""
    save("bert", tmp_path)
    torch.manual_seed(0)
    torch.rand(7)
    one, two = build(tmp_path), build(tmp_path)
    assert one.info["initial_weights"] == two.info["initial_weights"]
    torch.manual_seed(0)
    drawn = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, dtype=torch.float32)
    assert torch.equal(drawn.classifier.weight, one.base.classifier.weight)


# Whole commands


BEST = "--train.load_best_model_at_end true --train.eval_strategy epoch --train.save_strategy epoch"
MISTAKES = {
    "metric": (f"{BEST} --train.metric_for_best_model f1", "takes accuracy or loss"),
    "optimizer": ("--train.optim galore_adamw", "galore_torch"),
    "kernel package": ("--train.use_liger_kernel true", "iger"),
    "fsdp": ("--train.fsdp full_shard", "fsdp"),
    "betas": ("--train.adam_beta1 1.5", "beta"),
    "scheduler": ("--train.lr_scheduler_kwargs.num_turns 3", "num_turns"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_before_the_first_run(tmp_path, capsys, mistake):
    options, said = MISTAKES[mistake]
    assert run("classify", tmp_path / "runs", *options.split()) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and told[0].startswith("finetune: error:") and said in told[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("bert", [], "positions for 16"),
        ("distilbert", ["--model.lora.rank", "2"], "positions for 16"),
    ],
)
def test_a_model_that_does_not_fit_leaves_nothing(tmp_path, capsys, family, options, said):
    base = save(family, tmp_path / "base", max_position_embeddings=16)
    options = ["--model", str(base), "--data.max_length", "24", *options]
    capsys.readouterr()
    assert run("classify", tmp_path / "runs", *options) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and said in told[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_rehearsal_moves_no_number(tmp_path, monkeypatch):
    base = save("bert", tmp_path / "base")
    options = ["--model", str(base), "--train.max_steps", "3", "--attention", "softmax"]
    assert run("classify", tmp_path / "with", *options) == 0
    monkeypatch.setattr(finetune.studies.preflight, "rehearsal", SimpleNamespace(rehearse=lambda *_: []))
    assert run("classify", tmp_path / "without", *options) == 0
    one, two = (next((tmp_path / name).glob("agnews/*/softmax/seed-0")) for name in ("with", "without"))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert store.read_predictions(one) == store.read_predictions(two)
