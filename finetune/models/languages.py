"""The tokens by which a multilingual model knows its languages."""

import inspect
import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from finetune.errors import UserError, unknown
from finetune.system.language_codes import matching
from finetune.tasks.base import languages

# Tokenizer class -> the generation setting that takes the target language's token. mBART (cc25) starts the
# decoder with it; the others start with the end token and force it as the first one generated.
TARGET_SETTING: Mapping[str, str] = {
    "MBartTokenizer": "decoder_start_token_id",
    "MBart50Tokenizer": "forced_bos_token_id",
    "M2M100Tokenizer": "forced_bos_token_id",
    "NllbTokenizer": "forced_bos_token_id",
}
CODE = re.compile(r"(?:__)?([a-z]{2,3}(?:_[A-Za-z]{2,4})?)(?:__)?")
"""A token that names a language: ``de_DE``, ``__de__``, ``deu_Latn``."""


def set_languages(tokenizer: PreTrainedTokenizerBase, pair: str | None) -> dict[str, int]:
    """Sets the languages of ``pair`` ("de-en") in a multilingual tokenizer.

    Returns the generation settings that go with it, e.g. ``{"forced_bos_token_id": 250004}``; empty for a
    tokenizer without languages, which is left alone. Raises ``UserError`` for a language the model lacks, and
    for a multilingual tokenizer that is not in the table: it would take the wrong language in silence.
    """
    name = type(tokenizer).__name__
    setting = TARGET_SETTING.get(name)
    listed = ", ".join(TARGET_SETTING)
    if setting is None and "src_lang" in inspect.signature(type(tokenizer).__init__).parameters:
        raise UserError(f"{name} needs languages that are not known here: use a model with {listed}")
    if setting is None or pair is None:
        return {}
    source, target = (_code(language, tokenizer) for language in languages(pair))
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    token = f"__{target}__" if name == "M2M100Tokenizer" else target
    return {setting: int(tokenizer.convert_tokens_to_ids(token))}


def _code(language: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's own code: of ``de``, ``de_DE`` (mBART), ``de`` (M2M100) or ``deu_Latn`` (NLLB)."""
    known = [match[1] for token in tokenizer.all_special_tokens if (match := CODE.fullmatch(token))]
    codes = matching(language, known)
    if len(codes) > 1:
        raise UserError(f"{type(tokenizer).__name__} has several of '{language}': say {' or '.join(codes)}")
    if not codes:
        raise unknown(f"language of {type(tokenizer).__name__}", language, known)
    return codes[0]
