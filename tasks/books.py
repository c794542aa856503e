"""Books: English prose of Project Gutenberg (PG-19: 28,602 training, 50 validation and 100 test books)."""

from finetune.tasks.base import LanguageTask

BOOKS = LanguageTask(
    name="books",
    title="Books (PG-19)",
    text=("text",),
    hub_id="emozilla/pg19",
    revision="c021754c8e01c5b1cc83a1f549c1f97fbbb756b8",
    licence="Apache-2.0 for the collection; the books are in the public domain in the United States",
    source="Rae et al. 2020, arXiv 1911.05507",
    note=(
        "work on length extrapolation uses Books3 of The Pile, which was withdrawn: figures do not compare"
    ),
    streamed=True,
)
