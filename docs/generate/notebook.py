"""Runs the example notebook, to hold that it works; with --write, its outputs are kept in it.

python -m docs.generate.notebook [--write]
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "example.ipynb"
ROOT = Path(__file__).parents[2]
# In lines of progress, and in the line that ends a run: no two machines agree on them.
TIMES = re.compile(r", about [\d.]+ \w+ left| in [\d.]+ \w+(?=; predicting)| \| [\d.]+ s$", re.MULTILINE)


def run() -> nbformat.NotebookNode:
    """Executes every cell in an empty folder, from a kernel that imports this checkout."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    os.environ["HF_HUB_OFFLINE"] = "1"  # the sample is enough
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}})
        return client.execute()


def kept(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook as it is kept: results and printed lines, without progress bars, times and versions."""
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        outputs: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                continue
            if "text/html" in output.get("data", {}):
                output.data.pop("text/plain", None)
            # A kernel sends what it prints in pieces, cut at other places each time.
            if outputs and output.get("name") == "stdout" == outputs[-1].get("name"):
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        for output in outputs:
            if output.get("name") == "stdout":
                output.text = TIMES.sub("", output.text)
        if "outputs" in cell:
            cell.outputs = outputs
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m docs.generate.notebook", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the outputs")
    write = parser.parse_args().write
    executed = run()
    if write:
        nbformat.write(kept(executed), NOTEBOOK)


if __name__ == "__main__":
    main()
