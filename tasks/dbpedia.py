"""DBpedia: which of fourteen kinds of thing an article is about (560,000 training and 70,000 test rows)."""

from finetune.tasks.base import ClassificationTask

DBPEDIA = ClassificationTask(
    name="dbpedia",
    title="DBpedia ontology classes",
    text=("title", "content"),
    label="label",
    labels=(
        "Company",
        "EducationalInstitution",
        "Artist",
        "Athlete",
        "OfficeHolder",
        "MeanOfTransportation",
        "Building",
        "NaturalPlace",
        "Village",
        "Animal",
        "Plant",
        "Album",
        "Film",
        "WrittenWork",
    ),
    hub_id="fancyzhx/dbpedia_14",
    revision="9abd46cf7fc8b4c64290f26993c540b92aa145ac",
    licence="CC BY-SA 3.0",
    source="Zhang, Zhao and LeCun 2015, arXiv 1509.01626",
)
