"""WikiText: good articles of Wikipedia, raw, in 103 or 2 million words; the test is the same."""

import dataclasses

from finetune.tasks.base import LanguageTask

WIKITEXT = LanguageTask(
    name="wikitext",
    title="WikiText-103, raw",
    text=("text",),
    begins=r"^ = [^=]+ = \n?$",  # a row is a line; sections have more than one sign of equality at each end
    between="",
    hub_id="Salesforce/wikitext",
    hub_config="wikitext-103-raw-v1",
    revision="b08601e04326c79dfdd32d625aee71d232d685c3",
    licence="CC BY-SA 3.0",
    source="Merity et al. 2017, arXiv 1609.07843",
    note="blank lines are left out, as the Hub has empty texts for them",
)

WIKITEXT_2 = dataclasses.replace(
    WIKITEXT, name="wikitext-2", title="WikiText-2, raw", hub_config="wikitext-2-raw-v1"
)
