"""Generation settings of a model: the search that is configured, and the tokens it starts and ends by."""

from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from finetune.config.schema import RunConfig
from finetune.data.tokenizing import LANGUAGE, target_codes
from finetune.errors import UserError
from finetune.models.languages import set_languages

# The generation settings that are kept of a checkpoint; its search settings are replaced.
TOKEN_SETTINGS = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids",
)  # fmt: skip


def settle(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> None:
    """Replaces the generation settings of the checkpoint by the configured search, but for its tokens."""
    assert config.generation is not None  # the objective has checked it
    tokens = {name: getattr(model.generation_config, name) for name in TOKEN_SETTINGS}
    model.generation_config = GenerationConfig(
        num_beams=config.generation.num_beams,
        length_penalty=config.generation.length_penalty,
        max_length=config.generation.max_new_tokens + 1,  # counts the decoder's start token too
        do_sample=False,
        **tokens | {"pad_token_id": tokenizer.pad_token_id} | set_languages(tokenizer, config.pair),
    )


def check(name: str, model: PreTrainedModel, tokenizer: Any) -> None:
    """Raises ``UserError`` where config.json, generation settings and tokenizer disagree on tokens.

    The first and the last token of a translation must be the same in training and in writing.
    """
    settings: Any = model.generation_config
    entries = model.get_input_embeddings().weight.shape[0]
    for setting in TOKEN_SETTINGS:
        for token in flat(getattr(settings, setting)):
            if type(token) is not int or not 0 <= token < entries:
                raise UserError(
                    f"the generation settings of '{name}' say {setting}: {token!r}, which is none of its "
                    f"{entries} tokens: mend generation_config.json (config.json, where there is none)"
                )
    ends = flat(settings.eos_token_id)
    end = tokenizer.eos_token_id
    if end is not None and end not in ends:
        raise UserError(
            f"'{name}' ends a translation with token {ends[0] if ends else None} by its generation settings "
            f"and with {end} ('{tokenizer.eos_token}') by its tokenizer: mend eos_token_id in config.json "
            "and generation_config.json"
        )
    other = int(tokenizer.pad_token_id == 0)  # any token but padding, which some families replace
    written = settings.decoder_start_token_id
    written = settings.bos_token_id if written is None else written
    trained = _first(model, other)
    if written is None or trained is None:
        raise UserError(
            f"'{name}' does not say which token a translation starts with: set decoder_start_token_id in its "
            "config.json and generation_config.json"
        )
    if trained == model.config.decoder_start_token_id != written:  # mBART's starts with the language
        raise UserError(
            f"'{name}' starts a translation with token {trained} while it trains, by its config.json, and "
            f"with {written} where it translates, by generation_config.json: mend decoder_start_token_id in "
            "the one or the other"
        )


def flat(tokens: Any) -> list[Any]:
    """A token, a list of some or a list of lists -> all of them."""
    if isinstance(tokens, list):
        return [token for inner in tokens for token in flat(inner)]
    return [] if tokens is None else [tokens]


def _first(model: Any, token: int) -> int | None:
    """The first decoder input for a target ``token``: in most families their start token."""
    shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is None:  # M2M100 does it in its forward pass
        start: int | None = model.config.decoder_start_token_id
        return start
    try:
        return int(shift(labels=torch.tensor([[token]]))[0, 0])
    except (TypeError, ValueError):
        return None


def language_notes(config: RunConfig, tokenizer: Any) -> list[str]:
    """A note where a Marian model of several languages would have to guess the one to write."""
    codes = target_codes(tokenizer)
    if len(codes) < 2 or LANGUAGE.match(config.data.prefix or ""):
        return []
    several = f"{', '.join(codes[:5])}{', ...' if len(codes) > 5 else ''}"
    return [
        f"note: {config.model.name} translates into {len(codes)} languages ({several}): say which one by "
        f"--data.prefix '{codes[0]}', or it has to learn it"
    ]
