"""Control words in texts are text, whatever the tokenizer; what it frames a text with stays."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from tokenizers.pre_tokenizers import ByteLevel
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES as LANGUAGES

from finetune.cli.options import read_overrides
from finetune.config.loading import parse_value
from finetune.data.tokenizing import prefixed, settle
from finetune.errors import UserError
from finetune.models.generation import language_notes
from finetune.models.pretrained import build_tokenizer
from finetune.models.scratch import BERT, MARIAN, train_tokenizer
from finetune.objectives import get
from finetune.studies.axes import value_text
from tests.support.records import run_config

WORDS = "</s> <unk> <s> <pad> [SEP] [CLS] [UNK] <mask> <extra_id_0> <|endoftext|> en_XX __en__ eng_Latn"
CHARACTERS = string.ascii_letters + string.digits + "</>[]_|▁"
CLASSES, PAIRS = get("classification"), get("translation")
PIECES = [*((char, -5.0) for char in CHARACTERS), ("▁a", -4.0), ("he", -4.0)]


def numbered(*tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def unigram(*special: str) -> list[tuple[str, float]]:
    return [*((token, 0.0) for token in special), *PIECES]


def t5() -> Any:
    sentinels = [(f"<extra_id_{number}>", 0.0) for number in range(99, -1, -1)]
    return hf.T5Tokenizer(vocab=unigram("<pad>", "</s>", "<unk>") + sentinels)


def mbart(tokenizer: Any) -> Any:
    codes = [(code, 0.0) for code in LANGUAGES]
    vocab = [*unigram("<s>", "<pad>", "</s>", "<unk>"), *codes, ("<mask>", 0.0)]
    return tokenizer(vocab=vocab, src_lang="en_XX", tgt_lang="de_DE")


def bert() -> Any:
    continued = [f"##{char}" for char in CHARACTERS]
    return hf.BertTokenizer(
        vocab=numbered("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *continued)
    )


BYTES = ByteLevel.alphabet()
TOKENIZERS = {
    "bert": bert,
    "gpt2": lambda: hf.GPT2Tokenizer(vocab=numbered("<|endoftext|>", *BYTES), merges=[]),
    "roberta": lambda: hf.RobertaTokenizer(
        vocab=numbered("<s>", "<pad>", "</s>", "<unk>", "<mask>", *BYTES), merges=[]
    ),
    "llama": lambda: hf.LlamaTokenizer(vocab=numbered("<unk>", "<s>", "</s>", *CHARACTERS), merges=[]),
    "nllb": lambda: hf.NllbTokenizer(
        vocab=numbered("<s>", "<pad>", "</s>", "<unk>", *CHARACTERS), merges=[], src_lang="eng_Latn"
    ),
    "t5": t5,
    "mbart": lambda: mbart(hf.MBartTokenizer),
    "mbart50": lambda: mbart(hf.MBart50Tokenizer),
    "scratch classifier": lambda: train_tokenizer(BERT.recipe, iter(["a cat", "he sat"]), 300),
    "scratch translator": lambda: train_tokenizer(MARIAN.recipe, iter(["a cat", "he sat"]), 300),
}
CONTEXTS = ("{}", "a {} he", "a{}he", "he {}", "{} {}")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_control_words_are_text(name: str) -> None:
    """In sources, targets and texts to classify: as many control tokens as an ordinary text has, and all of
    the text comes back when control tokens are left out."""
    tokenizer = TOKENIZERS[name]()
    before = tokenizer("a he")["input_ids"]
    settle(tokenizer)
    assert tokenizer("a he")["input_ids"] == before
    assert tokenizer.padding_side == "right"
    control = set(tokenizer.all_special_ids)
    words = dict.fromkeys([*WORDS.split(), *tokenizer.all_special_tokens])
    for text in [context.format(*[word] * 2) for word in words for context in CONTEXTS]:
        for side in ("text", "text_target"):
            plain = [i for i in tokenizer(**{side: "a he"})["input_ids"] if i in control]
            ids = tokenizer(**{side: text})["input_ids"]
            assert [i for i in ids if i in control] == plain, text
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "").lower() == text.replace(" ", "").lower()


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "mbart", "scratch translator"])
def test_a_saved_tokenizer_reads_the_same(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name]()
    settle(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    settle(again)
    assert again(WORDS)["input_ids"] == tokenizer(WORDS)["input_ids"]
    assert again.padding_side == "right"


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize("family", ["marian", "m2m100"])
def test_sentencepiece_reads_control_words_as_text(family: str, tmp_path: Path) -> None:
    """Marian takes a language code at the beginning of a text for one; a user's text has none."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="these tokenizers need sentencepiece")
    lines = tmp_path / "lines.txt"
    lines.write_text(f"a he {CHARACTERS.replace('▁', '')}><\n" * 30)
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines), model_prefix=str(tmp_path / "spm"), vocab_size=90, hard_vocab_limit=False,
        character_coverage=1.0, minloglevel=2,
    )  # fmt: skip
    spm = str(tmp_path / "spm.model")
    model = sentencepiece.SentencePieceProcessor(model_file=spm)
    pieces = [model.id_to_piece(number) for number in range(model.get_piece_size())]
    vocab = tmp_path / "vocab.json"
    vocab.write_text(json.dumps(numbered("</s>", "<unk>", ">>fra<<", ">>ron<<", *pieces, "<pad>")))
    if family == "marian":
        tokenizer = hf.MarianTokenizer(spm, spm, str(vocab))
    else:
        tokenizer = hf.M2M100Tokenizer(str(vocab), spm, src_lang="en", tgt_lang="de")
    settle(tokenizer)
    control = {*tokenizer.all_special_ids, tokenizer.convert_tokens_to_ids(">>fra<<")} - {
        tokenizer.unk_token_id
    }
    texts = [context.format(*[word] * 2) for word in [*WORDS.split(), ">>fra<<"] for context in CONTEXTS]
    chosen = run_config(data={"max_length": 90}).data
    rows = PAIRS.encode({"source": ["a he", *texts], "target": ["a he", *texts]}, tokenizer, chosen)
    for name in ("input_ids", "labels"):
        framed = [[i for i in ids if i in control] for ids in rows[name]]
        assert all(row == framed[0] for row in framed)
    if family == "marian":
        _check_language_code(tokenizer)
        _check_plan(tokenizer, tmp_path / "model")


def _check_language_code(tokenizer: Any) -> None:
    """Only ``data.prefix`` gives one; a text that looks like it stays text, and so does the target."""
    chosen = run_config(data={"max_length": 90, "prefix": ">>fra<<"}).data
    rows = PAIRS.encode({"source": ["a he", ">>fra<< he"], "target": ["a"] * 2}, tokenizer, chosen)
    code = tokenizer.convert_tokens_to_ids(">>fra<<")
    assert [ids.index(code) for ids in rows["input_ids"]] == [0, 0]
    assert [ids.count(code) for ids in [*rows["input_ids"], *rows["labels"]]] == [1, 1, 0, 0]
    with pytest.raises(UserError, match="did you mean '>>fra<<'"):
        prefixed(tokenizer, ">>fr<< ")


def _check_plan(tokenizer: Any, folder: Path) -> None:
    """A language that the model lacks is told as its tokenizer is built, and several without a choice are."""
    hf.MarianConfig(
        vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, d_model=16, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save_pretrained(folder)
    chosen = {"kind": "translation", "generation": GENERATION, "model": {"name": str(folder)}}
    with pytest.raises(UserError, match="did you mean '>>ron<<'"):
        build_tokenizer(run_config(**chosen, data={"prefix": ">>ro<<"}), MARIAN.recipe, iter(()))
    built = build_tokenizer(run_config(**chosen), MARIAN.recipe, iter(()))
    (note,) = language_notes(run_config(**chosen), built)
    assert "translates into 2 languages (>>fra<<, >>ron<<)" in note
    assert not language_notes(run_config(**chosen, data={"prefix": ">>fra<<"}), built)


GENERATION = {"num_beams": 1, "length_penalty": 1.0, "max_new_tokens": 8}


@pytest.mark.parametrize("name", ["t5", "mbart", "bert", "gpt2", "scratch translator"])
def test_words_before_a_text_are_read_as_words_of_it(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    settle(tokenizer)
    chosen = run_config(data={"max_length": 90, "prefix": "translate a to he: "}).data
    rows = PAIRS.encode({"source": ["he a"], "target": ["a he"]}, tokenizer, chosen)
    assert rows["input_ids"] == [tokenizer("translate a to he: he a")["input_ids"]]
    assert rows["labels"] == [tokenizer(text_target="a he")["input_ids"]]
    with pytest.raises(UserError, match="Allowed: none"):
        prefixed(tokenizer, ">>fra<<")


def test_a_prefix_stands_before_every_input_and_no_target() -> None:
    seen: dict[str, list[str]] = {}

    def tokenizer(text: list[str] | None = None, text_target: list[str] | None = None, **_: Any) -> Any:
        seen.update({"text": text} if text else {"target": text_target or []})
        return {"input_ids": [[1]], "attention_mask": [[1]]}

    prefix = "translate English to German: "
    for value, before in ((prefix, prefix), (None, "")):
        chosen = run_config(data={"prefix": value}).data
        PAIRS.encode({"source": ["a house"], "target": ["ein Haus"]}, tokenizer, chosen)
        assert seen == {"text": [f"{before}a house"], "target": ["ein Haus"]}
        CLASSES.encode({"text": ["good"], "label": [1]}, tokenizer, chosen)
        assert seen["text"] == [f"{before}good"]


@pytest.mark.parametrize(
    "value", ["translate English to German: ", ">>fra<<", "sum: [x", '"quoted: "', "null", "1"]
)
def test_a_prefix_is_taken_from_the_command_line_to_the_letter(value: str) -> None:
    found = read_overrides(["--data.prefix", value])["data"]["prefix"]
    assert found == {'"quoted: "': "quoted: ", "null": None}.get(value, value)
    if found is not None:
        assert parse_value(value_text(found), "data.prefix") == found
