"""Books: prose from a folder of your own."""

from finetune.tasks.base import LanguageTask

BOOKS = LanguageTask(
    name="books",
    title="Books",
    text=("text",),
    licence="that of the texts in the folder",
    source="a folder of your own",
    note="put train.parquet, validation.parquet and test.parquet with a column 'text' into a folder",
)
