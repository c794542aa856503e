"""Amazon reviews: the stars (local files only) or the polarity (3,600,000 training rows) of a review."""

from finetune.tasks.base import ClassificationTask

AMAZON = ClassificationTask(
    name="amazon",
    title="Amazon review stars (full)",
    text=("title", "content"),
    label="label",
    labels=("1 star", "2 stars", "3 stars", "4 stars", "5 stars"),
    licence="research use, as its publisher asks",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
    note="use TASK=amazon-polarity, which the Hub has, or put your own five-star files into data/amazon",
)

# No commit could be confirmed for this one, so it follows the main branch; the record holds the commit met.
AMAZON_POLARITY = ClassificationTask(
    name="amazon-polarity",
    title="Amazon review polarity",
    text=("title", "content"),
    label="label",
    labels=("negative", "positive"),
    hub_id="fancyzhx/amazon_polarity",
    revision="main",
    licence="Apache-2.0, as the Hub states",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
)
