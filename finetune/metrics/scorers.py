"""sacrebleu's scorers as this project uses them; light to import, so that a report needs no torch."""

from collections.abc import Mapping
from importlib.util import find_spec

from sacrebleu.metrics import BLEU, CHRF

from finetune.system.language_codes import language_of

# 13a splits at spaces and Western punctuation, and leaves a sentence of these languages unsplit: Chinese and
# its relatives, Japanese and Korean, and those of South-East Asia and Tibet, for which sacrebleu has nothing.
_TOKENIZERS: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(("zh", "yue", "wuu", "hak", "nan", "gan", "hsn", "lzh"), ("zh", None)),
    "ja": ("ja-mecab", "MeCab"),
    "ko": ("ko-mecab", "mecab_ko"),
    **dict.fromkeys(("th", "lo", "km", "my", "shn", "bo", "dz"), ("char", None)),
}


def bleu_tokenizer(target_language: str | None) -> str:
    """sacrebleu's tokenizer for a target language: 13a but for those that are written without spaces.

    Japanese and Korean need sacrebleu's extras (``pip install "sacrebleu[ja,ko]"``) and are counted in
    characters without them; the signature of the score names the tokenizer that was used.
    """
    tokenizer, extra = _TOKENIZERS.get(language_of(target_language or ""), ("13a", None))
    return "char" if extra and find_spec(extra) is None else tokenizer


def bleu_scorer(tokenizer: str) -> BLEU:
    """Corpus BLEU with sacrebleu's defaults: mixed case, exponential smoothing, 4-grams.

    Sources: Papineni et al. 2002; Post 2018, https://aclanthology.org/W18-6319.
    """
    return BLEU(tokenize=tokenizer)


def chrf_scorer() -> CHRF:
    """Corpus chrF2: character 6-grams, no word n-grams (Popović 2015, https://aclanthology.org/W15-3049)."""
    return CHRF()


def tokenizer_of(signature: str) -> str:
    """The tokenizer named in a BLEU signature.

    >>> tokenizer_of("bleu|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0")
    '13a'
    """
    return dict(part.split(":", 1) for part in signature.split("|") if ":" in part)["tok"]
