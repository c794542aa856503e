"""Yelp reviews: the stars (650,000 training rows) or the polarity (560,000 training rows) of a review."""

from finetune.tasks.base import ClassificationTask

YELP = ClassificationTask(
    name="yelp",
    title="Yelp review stars (full)",
    text=("text",),
    label="label",
    labels=("1 star", "2 stars", "3 stars", "4 stars", "5 stars"),
    hub_id="Yelp/yelp_review_full",
    revision="c1f9ee939b7d05667af864ee1cb066393154bf85",
    licence="Yelp dataset licence: academic use",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
)

# No commit could be confirmed for this one, so it follows the main branch; the record holds the commit met.
YELP_POLARITY = ClassificationTask(
    name="yelp-polarity",
    title="Yelp review polarity",
    text=("text",),
    label="label",
    labels=("negative", "positive"),
    hub_id="fancyzhx/yelp_polarity",
    revision="main",
    licence="Yelp dataset licence: academic use",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
)
