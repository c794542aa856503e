"""Models from random weights: stock Hugging Face architectures, and tokenizers trained on the train split."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    GPTNeoXConfig,
    MarianConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from finetune.errors import unknown
from finetune.models.sizes import DECODERS, ENCODER_DECODERS, ENCODERS, MODERNBERT


@dataclass(frozen=True)
class Recipe:
    """The special tokens of a scratch model's tokenizer by role, and the frame that they make of a text.

    ``leading_space``: a text is read as if a space came first, so that its first word is as any other.
    """

    special: Mapping[str, str]
    frame: str
    lowercase: bool
    leading_space: bool


@dataclass(frozen=True)
class Scratch:
    """The models from random weights of one kind of task: ``scratch:SIZE`` for each of ``sizes``.

    ``configure(tokenizer, longest, **options)`` makes the stock configuration with the options of a size (and
    those of a head), and positions for the ``longest`` row that it is to read or to write, in tokens, and for
    512 at least.
    """

    sizes: Mapping[str, Mapping[str, Any]]
    configure: Callable[..., PreTrainedConfig]
    recipe: Recipe

    def options(self, size: str, kind: str) -> Mapping[str, Any]:
        """The options of a size; ``UserError`` for one that tasks of this ``kind`` lack."""
        if size not in self.sizes:
            raise unknown(f"scratch size for {kind}", size, self.sizes)
        return self.sizes[size]


def _encoder(
    tokenizer: PreTrainedTokenizerBase, longest: int, *, model_type: str = "bert", **options: Any
) -> PreTrainedConfig:
    configure = _modernbert if model_type == MODERNBERT else _bert
    return configure(tokenizer, longest, **options)


def _bert(tokenizer: PreTrainedTokenizerBase, longest: int, **options: Any) -> PreTrainedConfig:
    return BertConfig(
        **options,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=max(512, longest),
    )


def _modernbert(tokenizer: PreTrainedTokenizerBase, longest: int, **options: Any) -> PreTrainedConfig:
    """All layers read the whole text, which is short here, and rotary angles are those of the authors' own
    training on 1,024 tokens; transformers' defaults are of their later one on 8,192. A classifier reads the
    mean of the tokens, because predicting masked ones does not train the first, [CLS]."""
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    return ModernBertConfig(
        **options,
        layer_types=["full_attention"] * options["num_hidden_layers"],
        classifier_pooling="mean",
        rope_parameters={"full_attention": dict(rope), "sliding_attention": dict(rope)},
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        max_position_embeddings=max(512, longest),
    )


def _marian(tokenizer: PreTrainedTokenizerBase, longest: int, **options: Any) -> PreTrainedConfig:
    return MarianConfig(
        **options,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,  # as the Marian models on the Hub
        forced_eos_token_id=None,
        scale_embedding=True,
        max_position_embeddings=max(512, longest),
    )


def _neox(tokenizer: PreTrainedTokenizerBase, longest: int, **options: Any) -> PreTrainedConfig:
    """Rotary over whole heads, and the feed-forward layer after the attention, as in DAPE's models;
    transformers' own defaults are a quarter of the head, and both side by side."""
    return GPTNeoXConfig(
        **options,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,  # as before every document
        eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=max(512, longest),
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        use_parallel_residual=False,
        tie_word_embeddings=False,
        hidden_act="gelu",
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )


BERT = Scratch(
    ENCODERS,
    _encoder,
    Recipe(
        special={"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        frame="[CLS] $A [SEP]",
        lowercase=True,
        leading_space=True,
    ),
)
MARIAN = Scratch(
    ENCODER_DECODERS,
    _marian,
    Recipe(
        special={"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"},
        frame="$A </s>",
        lowercase=False,
        leading_space=True,
    ),
)
NEOX = Scratch(
    DECODERS,
    _neox,
    # What it writes is what it read, to the byte: nothing is framed, lower-cased or put before a text.
    Recipe(
        special={"pad": "<|padding|>", "eos": "<|endoftext|>"},
        frame="$A",
        lowercase=False,
        leading_space=False,
    ),
)


def train_tokenizer(recipe: Recipe, texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Trains a byte-level BPE (Sennrich et al., 2016) of ``vocab_size`` entries on ``texts``.

    Nothing is unknown to it, one serves both languages of a translation, and training it twice gives the same
    tokenizer. (WordPiece, BERT's own, does not: its trainer numbers the pieces in another order every time,
    so that two runs of a comparison would not read the same rows.)
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase() if recipe.lowercase else None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=recipe.leading_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(recipe.special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    framing = [token for token in recipe.special.values() if token in recipe.frame.split()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=recipe.frame, special_tokens=[(token, tokenizer.token_to_id(token)) for token in framing]
    )
    names = {f"{role}_token": token for role, token in recipe.special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
