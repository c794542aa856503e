"""FineWeb: English web pages, the sample of 10 billion tokens (28 GB packed)."""

from finetune.tasks.base import LanguageTask

FINEWEB = LanguageTask(
    name="fineweb",
    title="FineWeb, sample of 10 billion tokens",
    text=("text",),
    hub_id="HuggingFaceFW/fineweb",
    hub_config="sample-10BT",
    revision="cd850543a88ba055067841ce91d2669344ff7b7a",
    licence="ODC-By 1.0",
    source="Penedo et al. 2024, arXiv 2406.17557",
    streamed=True,
)
