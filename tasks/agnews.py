"""AG News: which of four sections a news item belongs to (120,000 training and 7,600 test rows)."""

from finetune.tasks.base import ClassificationTask, LanguageTask

AGNEWS = ClassificationTask(
    name="agnews",
    title="AG News topics",
    text=("text",),
    label="label",
    labels=("World", "Sports", "Business", "Sci/Tech"),
    hub_id="fancyzhx/ag_news",
    revision="eb185aade064a813bc0b7f42de02595523103ca4",
    licence="research use only, as its publisher asks; the Hub states none",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
)

AGNEWS_TEXT = LanguageTask(
    name="agnews-text",
    title="AG News, its texts alone",
    text=("text",),
    hub_id=AGNEWS.hub_id,
    revision=AGNEWS.revision,
    licence=AGNEWS.licence,
    source=AGNEWS.source,
    note=(
        "to pretrain on the texts of the task itself, as Krishna et al. 2023 do (arXiv 2209.14389); "
        "a local folder is data/agnews-text, which may be a link to data/agnews"
    ),
)
