"""Yahoo! Answers: which of ten topics a question belongs to (1,400,000 training and 60,000 test rows)."""

from finetune.tasks.base import ClassificationTask

YAHOO = ClassificationTask(
    name="yahoo",
    title="Yahoo! Answers topics",
    text=("question_title", "question_content", "best_answer"),
    label="topic",
    labels=(
        "Society & Culture",
        "Science & Mathematics",
        "Health",
        "Education & Reference",
        "Computers & Internet",
        "Sports",
        "Business & Finance",
        "Entertainment & Music",
        "Family & Relationships",
        "Politics & Government",
    ),
    hub_id="community-datasets/yahoo_answers_topics",
    hub_config="yahoo_answers_topics",
    revision="78fccffa043240c80e17a6b1da724f5a1057e8e5",
    licence="Yahoo! Webscope L6: research use; the Hub states none",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
)
