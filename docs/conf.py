"""The site of the documentation. Its source is the repository, so that a link is right in both.

``sphinx-build -W -n -c docs . site`` reads it (``make docs``); any broken link or reference is a warning, and
a warning is an error.
"""

import finetune

project = "softmax-finetune"
release = finetune.__version__
author = "the softmax-finetune contributors"
project_copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinxcontrib.mermaid",
]
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/reference/*.md",
    "docs/notebooks/*.ipynb",
    "results/*/*.md",
]

myst_enable_extensions = ["attrs_inline", "colon_fence"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4  # a link to page.md#heading must find it
nb_execution_mode = "off"  # docs/generate/notebook.py runs the notebook; its outputs are kept
nitpicky = True
nitpick_ignore_regex = [
    # Types of fields and arguments that no page is about.
    (r"py:class", r"finetune\.(config|metrics|records|comparison)\..*"),
    (r"py:class", r"VariantFile"),  # of finetune.config, which attention imports for its types alone
    # Other projects' names, which no inventory is fetched for.
    (r"py:.*", r"(torch|transformers|pandas|pathlib|collections|numpy|datasets)\..*"),
    (
        r"py:.*",
        r"(Path|Tensor|Mapping|Sequence|Callable|Any|PreTrainedModel|PreTrainedTokenizerBase|.*DataFrame)",
    ),
]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = "softmax-finetune"
html_extra_path = ["redirect"]  # index.html, which leads to the README
html_static_path = ["style"]
html_css_files = ["wide.css"]
html_copy_source = False
html_theme_options = {"source_repository": "", "navigation_with_keys": True}
templates_path: list[str] = []

# The README is the first page. It must look right in the repository too, so its contents are listed here.
CONTENTS = """

```{toctree}
:hidden:
:caption: Guide

docs/quickstart
docs/notebooks/example
docs/runs
docs/tasks
docs/variants
docs/positions
docs/language-models
docs/warm-starts
docs/studies
docs/clusters
docs/reports
```

```{toctree}
:hidden:
:caption: Method

docs/concepts
docs/protocol
docs/kernels
docs/limits
```

```{toctree}
:hidden:
:caption: Results

docs/results
docs/language-results
docs/downstream-results
docs/performance
Report of the study <results/cpu/report>
Report on language models <results/language/report>
Report on pretraining with each variant <results/downstream/report>
Report on churn <results/churn/report>
Report of the first runs <results/first-runs/report>
Benchmark <results/bench-cpu/bench>
Benchmark of pretraining <results/bench-pretraining/bench>
Simulated studies <results/calibration/calibration>
```

```{toctree}
:hidden:
:caption: Reference

docs/reference/cli
docs/reference/configuration
docs/reference/api
```

```{toctree}
:hidden:
:caption: Project

docs/architecture
CONTRIBUTING
CHANGELOG
SECURITY
```
"""


def setup(app):  # type: ignore[no-untyped-def]
    app.connect("source-read", add_contents)


def add_contents(app, docname: str, source: list[str]) -> None:  # type: ignore[no-untyped-def]
    if docname == root_doc:
        source[0] += CONTENTS
