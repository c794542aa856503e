"""AG News: which of four sections a news item belongs to (120,000 training and 7,600 test rows)."""

from finetune.tasks.base import ClassificationTask

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
