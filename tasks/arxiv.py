"""Scientific papers: the full texts of papers on arXiv (about 33,000, with splits)."""

from finetune.tasks.base import LanguageTask

ARXIV = LanguageTask(
    name="arxiv",
    title="arXiv papers",
    text=("text",),
    hub_id="ccdv/arxiv-classification",
    revision="main",  # no commit of it could be checked
    licence="each paper's own; the Hub states none",
    source="He et al. 2019, Long Document Classification From Local Word Glimpses via Recurrent Attention",
    note=(
        "work on length extrapolation uses the arXiv part of The Pile, in LaTeX, and these are texts out of "
        "PDFs: figures do not compare"
    ),
    streamed=True,
)
