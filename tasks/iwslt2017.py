"""IWSLT 2017: TED talks (206,112 training rows for de-en).

The Hub's test split is tst2010 to tst2015 together (8,079 rows for de-en), not the official tst2017 set that
sacrebleu calls ``iwslt17``: BLEU measured here is not to be set beside figures on that one.
"""

from finetune.tasks.base import PARQUET_BRANCH, TranslationTask

_BILINGUAL = [("ar", "en"), ("de", "en"), ("en", "fr"), ("en", "ja"), ("en", "ko"), ("en", "zh")]
_MULTILINGUAL = [("en", "it"), ("en", "nl"), ("en", "ro"), ("it", "nl"), ("it", "ro"), ("nl", "ro")]

IWSLT2017 = TranslationTask(
    name="iwslt2017",
    title="IWSLT 2017 TED talks",
    pairs=tuple(sorted(pair for a, b in _BILINGUAL + _MULTILINGUAL for pair in (f"{a}-{b}", f"{b}-{a}"))),
    default_pair="de-en",
    hub_id="IWSLT/iwslt2017",
    hub_config="iwslt2017-{pair}",
    revision=PARQUET_BRANCH,  # the data set itself is a script, which datasets 4 and later do not run
    licence="CC BY-NC-ND 4.0",
    source="Cettolo et al. 2017, aclanthology.org/2017.iwslt-1.1",
)
