"""Makes every tokenizer read texts alike, whatever its files say: control words are text, padding is last."""

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import PreTrainedTokenizerFast

from finetune.errors import unknown

LANGUAGE = re.compile(r">>[^<>]+<<")
"""The code of a target language in Marian's vocabularies."""
AROUND = 20
"""Characters of a text that are shown before and after the first place where something was lost."""


def settle(tokenizer: Any) -> None:
    """Makes a tokenizer pad on the right, and read its control words as text wherever a text holds them.

    Padding on the left moves the positions of a row by as much as its batch is longer than it.

    Stock tokenizers turn a literal ``</s>`` or ``[SEP]`` into the control token itself: a translation would
    end there, and a classifier that pools at the end token would find two. What the tokenizer frames a text
    with stays. A tokenizer does not save all of this: whoever loads one settles it.
    """
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = True
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return  # sentencepiece itself never reads a control symbol in a text
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    # Control words that come out as their token all the same, at the beginning of a text or inside one.
    known = [
        word
        for word in tokenizer.all_special_tokens
        for token in [backend.token_to_id(word)]
        if any(token in backend.encode(text, add_special_tokens=False).ids for text in (word, f"a{word}a"))
    ]
    if not known:
        return
    # A unigram model keeps its control words among its pieces, and takes them for the likeliest ones. Cut off
    # from their last characters they are none.
    beginnings = "|".join(f"{re.escape(word[:-1])}(?={re.escape(word[-1])})" for word in known)
    cut = Split(Regex(beginnings), "isolated")
    backend.pre_tokenizer = Sequence([backend.pre_tokenizer, cut]) if backend.pre_tokenizer else cut


def escaped(tokenizer: Any, text: str) -> str:
    """A text whose beginning Marian's tokenizer does not take for a language code such as ``>>fra<<``.

    It looks for one at the very first character; sentencepiece drops the space again.
    """
    return f" {text}" if hasattr(tokenizer, "remove_language_code") and text.startswith(">>") else text


def unlike(tokenizer: Any, texts: Iterable[str]) -> tuple[str, str] | None:
    """A piece of the first text that a tokenizer does not give back as it was, and what it gives back.

    ``None`` where it gives all of them back. Spaces before a text do not count: SentencePiece reads one more
    than there are, and takes one away again.
    """
    texts = list(texts)
    read = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    written = tokenizer.batch_decode(read["input_ids"], clean_up_tokenization_spaces=False)
    for pair in zip(texts, written, strict=True):
        one, other = (text.lstrip(" ") for text in pair)
        if one != other:
            alike = (a == b for a, b in zip(one, other, strict=False))
            first = sum(takewhile(bool, alike))
            around = slice(max(0, first - AROUND), first + AROUND)
            return one[around], other[around]
    return None


def prefixed(tokenizer: Any, prefix: str | None) -> str:
    """The text that ``data.prefix`` puts before every input; "" for none.

    Marian's code of a target language, ``>>fra<<``, is the one control word that a prefix can give. Raises
    ``UserError`` for a code that the model lacks: its letters would be read as text.
    """
    prefix = prefix or ""
    code = LANGUAGE.match(prefix)
    if code is None:
        return prefix
    known = target_codes(tokenizer)
    if code[0].strip() not in known:
        raise unknown("language code in data.prefix", code[0].strip(), known)
    return prefix if prefix.endswith(" ") else f"{prefix} "


def target_codes(tokenizer: Any) -> list[str]:
    """The languages that a Marian model translates into, where it has a token for each: ``>>fra<<``."""
    return sorted(token for token in tokenizer.get_vocab() if LANGUAGE.fullmatch(token))
