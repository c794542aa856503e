"""Codes of languages, as users and data sets write them, against those of every multilingual tokenizer."""

from typing import Any

import pytest
from transformers import M2M100Tokenizer, MBart50Tokenizer, MBartTokenizer, NllbTokenizer
from transformers.models.m2m_100 import tokenization_m2m_100 as m2m_100
from transformers.models.mbart import tokenization_mbart as mbart
from transformers.models.mbart50 import tokenization_mbart50 as mbart50
from transformers.models.nllb import tokenization_nllb as nllb

from finetune.errors import UserError
from finetune.metrics.scorers import bleu_tokenizer
from finetune.models.languages import TARGET_SETTING, set_languages
from finetune.system.language_codes import language_of, matching
from finetune.tasks.base import TranslationTask, languages

PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)]
NLLB, MBART = nllb.FAIRSEQ_LANGUAGE_CODES, mbart.FAIRSEQ_LANGUAGE_CODES
MBART50, M2M100 = mbart50.FAIRSEQ_LANGUAGE_CODES, m2m_100.FAIRSEQ_LANGUAGE_CODES["m2m100"]


class Listed:
    """What is asked of M2M100's tokenizer, whose vocabulary needs files of its own."""

    def __init__(self) -> None:
        self.all_special_tokens = [
            "<s>",
            "__de__",
            "__en__",
            "__zh__",
            "__pt__",
            "__es__",
            "__ceb__",
            "__sr__",
        ]

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.all_special_tokens.index(token)


Listed.__name__ = "M2M100Tokenizer"
MAKERS: dict[str, Any] = {
    "mbart": lambda: MBartTokenizer(vocab=PIECES),
    "mbart50": lambda: MBart50Tokenizer(vocab=PIECES),
    "m2m100": Listed,
    "nllb": lambda: NllbTokenizer(vocab={piece: n for n, (piece, _) in enumerate(PIECES)}, merges=[]),
}
CODES = {  # of a language, what each family calls it; "" where it has none, or several
    "en": ("en_XX", "en_XX", "en", "eng_Latn"),
    "eng": ("en_XX", "en_XX", "en", "eng_Latn"),
    "en_XX": ("en_XX", "en_XX", "en", "eng_Latn"),
    "eng_Latn": ("en_XX", "en_XX", "en", "eng_Latn"),
    "de-DE": ("de_DE", "de_DE", "de", "deu_Latn"),
    "pt-BR": ("", "pt_XX", "pt", "por_Latn"),
    "es_419": ("es_XX", "es_XX", "es", "spa_Latn"),
    "zh": ("zh_CN", "zh_CN", "zh", "zho_Hans"),
    "cmn": ("zh_CN", "zh_CN", "zh", "zho_Hans"),
    "yue": ("", "", "", "yue_Hant"),
    "nb": ("", "", "", "nob_Latn"),
    "nn": ("", "", "", "nno_Latn"),
    "lb": ("", "", "", "ltz_Latn"),
    "iw": ("", "he_IL", "", "heb_Hebr"),
    "zh_CN": ("zh_CN", "zh_CN", "zh", "zho_Hans"),
    "zh-Hans": ("zh_CN", "zh_CN", "zh", "zho_Hans"),
    "zh-Hant": ("", "", "zh", "zho_Hant"),
    "zh-TW": ("", "", "zh", "zho_Hant"),
    "sr-Latn": ("", "", "sr", ""),
    "ceb": ("", "", "ceb", "ceb_Latn"),
    "xx": ("", "", "", ""),
}


@pytest.mark.parametrize("family", MAKERS)
def test_every_way_of_writing_a_language_finds_the_family_s_own(family: str) -> None:
    tokenizer = MAKERS[family]()
    german = {"mbart": "de_DE", "mbart50": "de_DE", "m2m100": "de", "nllb": "deu_Latn"}[family]
    (setting,) = set_languages(tokenizer, "en-de")
    assert setting == TARGET_SETTING[type(tokenizer).__name__]
    for written, each in CODES.items():
        code = each[list(MAKERS).index(family)]
        if not code:
            with pytest.raises(UserError, match=f"'{written}'"):
                set_languages(tokenizer, f"de-{written}")
        elif code != german:
            token = f"__{code}__" if family == "m2m100" else code
            assert set_languages(tokenizer, f"de-{written}") == {
                setting: tokenizer.convert_tokens_to_ids(token)
            }
            assert (tokenizer.src_lang, tokenizer.tgt_lang) == (german, code)
            set_languages(tokenizer, f"{written}-de")
            assert (tokenizer.src_lang, tokenizer.tgt_lang) == (code, german)


@pytest.mark.parametrize("first", [*CODES, "German", "src"])
def test_a_pair_of_any_two_codes_is_taken_apart(first: str) -> None:
    for second in [*CODES, "German", "tgt"]:
        if first != second:
            pair = f"{first}-{second}"
            assert languages(pair) == (first, second)
            TranslationTask(name="mine", title="mine", pairs=(pair,), default_pair=pair)


@pytest.mark.parametrize(
    "pair", ["", "de", "de-", "-en", "de-de", "de en", "de-en-", "a-b-c", "de--en", "../x-en"]
)
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(UserError):
        TranslationTask(name="mine", title="mine", pairs=(pair,), default_pair=pair)


def test_chinese_is_scored_as_chinese_however_it_is_written() -> None:
    for code in ("zh", "zho", "zh_CN", "zh-Hant", "zho_Hans", "chi", "cmn", "cmn_Hans", "yue"):
        assert bleu_tokenizer(code) == "zh"
    assert bleu_tokenizer("jpn") == bleu_tokenizer("ja") != "13a"
    assert bleu_tokenizer("es_419") == "13a" == bleu_tokenizer(None)
    for code in ("th", "tha", "km_KH", "mya_Mymr", "lo", "bod_Tibt", "shn_Mymr"):  # no spaces between words
        assert bleu_tokenizer(code) == "char"


def test_every_language_finds_its_own_in_each_family() -> None:
    """By two letters as by the family's own code; where it is written in several scripts, the usual one."""
    of_two = {code: language_of(code) for code in NLLB if len(language_of(code)) == 2}
    found = {code for short in of_two.values() for code in matching(short, NLLB)}
    assert len(of_two) > 130 and set(of_two) - found == {"zho_Hant", "kas_Deva", "knc_Arab"}
    for table in (NLLB, MBART, MBART50, M2M100):
        for code in table:
            assert matching(code, table) == [code]
            short = language_of(code)
            if short in of_two.values() or table != NLLB:
                (one,) = matching(short, table)
                assert language_of(one) == short
    assert {code for code in M2M100 if not matching(code, NLLB)} == {"br", "fy"}


def test_the_row_of_m2m100_is_its_class() -> None:
    assert M2M100Tokenizer.__name__ in TARGET_SETTING
