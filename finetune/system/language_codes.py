"""Language codes as users, data sets and models write them: ``zh``, ``zho``, ``zh_CN``, ``es_419``."""

import re
from collections.abc import Iterable

# Pairs: an ISO 639-1 code, and a code of ISO 639-2 or 639-3 that data sets and models use for it. A group of
# languages is paired with its usual member (ar with arb, zh with cmn).
_SAME = """
af afr am amh ar arb as asm az azj be bel bg bul bn ben bs bos ca cat cs ces cy cym da dan de deu el
ell en eng es spa et est eu eus fa pes fi fin fr fra ga gle gl glg gu guj ha hau he heb hi hin hr
hrv hu hun hy hye id ind ig ibo is isl it ita ja jpn jv jav ka kat kk kaz km khm kn kan ko kor ky
kir lo lao lt lit lv lvs mk mkd ml mal mn khk mr mar ms zsm mt mlt my mya ne npi nl nld no nob pa
pan pl pol ps pbt pt por ro ron ru rus sd snd si sin sk slk sl slv so som sq als sr srp sv swe sw
swh ta tam te tel tg tgk th tha tl tgl tr tur uk ukr ur urd uz uzn vi vie xh xho yo yor zh zho zu
zul ar ara az aze fa fas lv lav mn mon ms msa ne nep no nor ps pus sq sqi sw swa uz uzb zh chi de
ger fr fre nl dut sq alb hy arm eu baq my bur cs cze ka geo el gre is ice mk mac ms may fa per ro rum sk
slo cy wel ak aka ay aym ay ayr ba bak bm bam bo bod bo tib br bre dz dzo ee ewe eo epo et ekk ff ful
ff fuv fj fij fo fao fy fry gd gla gn grn ht hat kg kon ki kik kr kau kr knc ks kas ku kmr ku kur lb
ltz lg lug li lim ln lin mg mlg mg plt mi mao mi mri nn nno ns nso ny nya oc oci om gaz om orm or ori
or ory qu que qu quy rn run rw kin sa san sc srd sg sag sm smo sn sna ss ssw st sot su sun ti tir tk
tuk tl fil tn tsn ts tso tt tat tw twi ug uig wo wol yi ydd yi yid zh cmn
no nb he iw id in yi ji
""".split()  # noqa: SIM905  a table of 400 words
SHORT = dict(zip(_SAME[1::2], _SAME[::2], strict=True))
"""Three letters -> two; also the former two-letter codes (iw, in, ji, no) -> those of today."""
# The script of a language that is written in several, where nothing says which (Unicode's likely subtags).
LIKELY = {"zh": "hans", "ks": "arab", "kr": "latn"}
# Which script Chinese is written in goes by the region.
CHINESE = {"cn": "hans", "sg": "hans", "tw": "hant", "hk": "hant", "mo": "hant"}


def language_of(code: str) -> str:
    """The language of a code without script or region, in two letters where it has them.

    >>> [language_of(code) for code in ("zh_CN", "deu", "es-419", "ceb")]
    ['zh', 'de', 'es', 'ceb']
    """
    first = re.split(r"[-_]", code.lower())[0]
    return SHORT.get(first, first)


def matching(wanted: str, codes: Iterable[str]) -> list[str]:
    """Picks from ``codes`` those that may stand for ``wanted``: the same, or all of its language and script.

    >>> matching("pt-BR", ["pt_XX", "de_DE"]), matching("zh", ["zho_Hans", "zho_Hant"])
    (['pt_XX'], ['zho_Hans'])
    >>> matching("zh_TW", ["zho_Hans", "zho_Hant"]), matching("sr-Latn", ["srp_Cyrl"])
    (['zho_Hant'], [])
    """
    known = list(codes)
    exact = [code for code in known if code.lower().replace("-", "_") == wanted.lower().replace("-", "_")]
    if exact:
        return exact
    same = [code for code in known if language_of(code) == language_of(wanted)]
    script = _script(wanted) or (LIKELY.get(language_of(wanted)) if len(same) > 1 else None)
    return [code for code in same if script is None or _script(code) in (None, script)]


def _script(code: str) -> str | None:
    """The script of a code: ``latn`` of ``sr-Latn``, that of Chinese also from the region, else None."""
    parts = re.split(r"[-_]", code.lower())[1:]
    if language_of(code) == "zh":
        parts = [CHINESE.get(part, part) for part in parts]
    return next((part for part in parts if len(part) == 4 and part.isalpha()), None)
