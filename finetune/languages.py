"""Which token tells a multilingual model the language; the rest of the code need not know."""

import inspect
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from finetune.errors import UserError, unknown

# Tokenizer class -> the generation setting that takes the target language's token. mBART (cc25) starts the
# decoder with it; mBART-50 and M2M100 start with the end token and force it as the first one generated.
TARGET_SETTING: Mapping[str, str] = {
    "MBartTokenizer": "decoder_start_token_id",
    "MBart50Tokenizer": "forced_bos_token_id",
    "M2M100Tokenizer": "forced_bos_token_id",
}


def set_languages(tokenizer: PreTrainedTokenizerBase, pair: str | None) -> dict[str, int]:
    """Tell a multilingual tokenizer the languages of ``pair`` ("de-en").

    Returns the generation settings that go with it, e.g. ``{"forced_bos_token_id": 250004}``; empty for a
    tokenizer without languages, which is left alone. Raises ``UserError`` for a language the model lacks, and
    for a multilingual tokenizer that is not in the table: it would take the wrong language in silence.
    """
    name = type(tokenizer).__name__
    setting = TARGET_SETTING.get(name)
    if setting is None and "src_lang" in inspect.signature(type(tokenizer).__init__).parameters:
        raise UserError(f"{name} needs languages that are not known here: use a model with {_listed()}")
    if setting is None or pair is None:
        return {}
    codes = _codes(tokenizer)
    source, target = pair.split("-")
    for language in (source, target):
        if language not in codes:
            raise unknown(f"language of {name}", language, codes)
    tokenizer.src_lang = codes[source]
    tokenizer.tgt_lang = codes[target]
    token = f"__{target}__" if name == "M2M100Tokenizer" else codes[target]
    return {setting: int(tokenizer.convert_tokens_to_ids(token))}


def _listed() -> str:
    return ", ".join(TARGET_SETTING)


def _codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Two-letter language -> the tokenizer's own code: ``de`` -> ``de_DE`` (mBART), ``de`` (M2M100)."""
    tokens = [token.strip("_") for token in tokenizer.all_special_tokens]
    return {token.split("_")[0]: token for token in tokens if token[:2].islower() and "<" not in token}
