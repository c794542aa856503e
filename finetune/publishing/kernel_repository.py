"""A variant's kernels as a repository of the Hub's ``kernels`` package: for transformers without finetune.

    python -m finetune.publishing.kernel_repository FOLDER --attention sa-softmax

writes FOLDER, from which ``attn_implementation="org/name"`` takes the variant once it is on the Hub, or where
LOCAL_KERNELS="org/name=FOLDER" says so (transformers 5.23, kernels 0.18). Its modules are this project's own,
copied with their imports made relative; of the registry of variants and the configuration, which users' files
and pydantic come with, it has the few facts that the kernels read.
"""

import argparse
import ast
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import get_args

from finetune.attention.variants import PAPER, VARIANTS
from finetune.config.schema import KernelChoice
from finetune.errors import unknown

ROOT = "finetune.attention.standalone"
BACKENDS = ("cpu", "cuda")
_IMPORT = re.compile(r"^(\s*)from finetune((?:\.\w+)*) import ", re.MULTILINE)
_NAMESPACE = '"finetune::'  # of torch's operators: two in one process need names of their own

_REGISTRY = '''"""The variants, by name, and which kernels know the formula of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from finetune.attention import functions


@dataclass(frozen=True, eq=False)
class Variant:
    name: str
    weigh: Callable[..., Tensor]
    parameters: Mapping[str, float]
    kernels: tuple[str, ...]


VARIANTS = {{
    variant.name: variant
    for variant in (
{entries}
    )
}}


def known_to(kernel: str) -> tuple[str, ...]:
    return tuple(variant.name for variant in VARIANTS.values() if kernel in variant.kernels)
'''
_README = """---
license: apache-2.0
tags:
- kernels
---

# {name}

{summary} ({paper}): {equation}

```python
model = AutoModel.from_pretrained("...", attn_implementation="org/{name}", allow_all_kernels=True)
```

On an NVIDIA GPU (compute capability 8.0 or later) a Triton kernel computes it, forward and backward, without
a tensor of size query x key; on a CPU a C loop, compiled at first use by gcc or clang (CC names another) and
kept in the user's cache folder; elsewhere PyTorch. Each is held against the definition before its first use.

Written by `python -m finetune.publishing.kernel_repository`: the source is in that project, not here.
"""


def write(folder: Path, variant: str = "sa-softmax") -> list[Path]:
    """Writes the repository of one variant of the paper; returns its files. ``UserError`` for others."""
    known = [name for name in PAPER if len(VARIANTS[name].kernels) > 1]
    if variant not in known:
        raise unknown("variant with kernels of its own", variant, known)
    python_name = variant.replace("-", "_")
    modules = _modules(variant)
    digest = hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest()[:12]
    modules = {path: text.replace(_NAMESPACE, f'"{python_name}_{digest}::') for path, text in modules.items()}
    about = {"name": variant, "version": 1, "license": "Apache-2.0", "python-depends": []}
    contents = {f"torch-ext/{python_name}/{path}": text for path, text in modules.items()}
    for backend in BACKENDS:
        place = f"build/torch-{backend}"
        contents |= {f"{place}/{path}": text for path, text in modules.items()}
        metadata = {"id": f"_{python_name}_{backend}_{digest}", **about, "backend": {"type": backend}}
        contents[f"{place}/metadata.json"] = json.dumps(metadata, indent=2) + "\n"
    backends = ", ".join(f'"{backend}"' for backend in BACKENDS)
    contents["build.toml"] = (
        f'[general]\nname = "{variant}"\nversion = 1\nlicense = "Apache-2.0"\nbackends = [{backends}]\n\n'
        "[torch-noarch]\n"
    )
    facts = VARIANTS[variant]
    contents["README.md"] = _README.format(
        name=variant, summary=facts.summary, paper=facts.paper, equation=facts.equation
    )
    for path, text in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return [folder / path for path in sorted(contents)]


def _modules(variant: str) -> dict[str, str]:
    """The content of every file of the package, by its path in there."""
    instead = _instead()
    contents: dict[str, str] = {
        "__init__.py": f'"""{variant}: attention for transformers."""\n\n'
        "from .attention.standalone import flash_attn_forward, supports_flash_attn\n\n"
        '__all__ = ["flash_attn_forward", "supports_flash_attn"]\n'
    }
    waiting, seen = [ROOT], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        path, text = _source(module)
        text = instead.get(module, text)
        waiting += [each for each in _imported(text) if _exists(each)]
        if module.count(".") > 1:
            waiting.append(module.rpartition(".")[0])
        if module == ROOT:
            text = text.replace('VARIANT = "sa-softmax"', f'VARIANT = "{variant}"')
        contents[str(path)] = _relative(text, path)
        if path.name == "__init__.py":
            contents |= _beside(module, path.parent)
    return contents


def _instead() -> Mapping[str, str]:
    """What stands in the place of modules that bring more than the kernels read."""
    entries = "\n".join(
        f"        Variant({name!r}, functions.{str(VARIANTS[name].function).partition(':')[2]}, "
        f"{dict(VARIANTS[name].parameters)!r}, {VARIANTS[name].kernels!r}),"
        for name in PAPER
    )
    return {
        "finetune.attention": '"""Attention variants."""\n\n'
        "from finetune.attention.variants import VARIANTS\n\n"
        '__all__ = ["VARIANTS"]\n',
        "finetune.attention.variants": _REGISTRY.format(entries=entries),
        "finetune.config": '"""Configuration."""\n',
        "finetune.config.schema": '"""The kernels to choose from."""\n\nfrom typing import Literal\n\n'
        f"KernelChoice = Literal{list(get_args(KernelChoice))!r}\n",
    }


def _source(module: str) -> tuple[PurePosixPath, str]:
    """Where a module of finetune lies below that, and its text."""
    path = PurePosixPath(*module.split(".")[1:])
    root = resources.files("finetune")
    path = path / "__init__.py" if root.joinpath(str(path)).is_dir() else path.with_suffix(".py")
    return path, root.joinpath(str(path)).read_text(encoding="utf-8")


def _exists(module: str) -> bool:
    path = "/".join(module.split(".")[1:])
    root = resources.files("finetune")
    return root.joinpath(path).is_dir() or root.joinpath(f"{path}.py").is_file()


def _imported(text: str) -> list[str]:
    """Modules of finetune that a text imports, and what may be one: ``from package import module``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("finetune."):
            found += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _relative(text: str, path: PurePosixPath) -> str:
    """``from finetune.a import b`` -> ``from ..a import b``, with a dot for each folder up."""
    dots = "." * len(path.parts)
    return _IMPORT.sub(lambda match: f"{match[1]}from {dots}{match[2].removeprefix('.')} import ", text)


def _beside(package: str, folder: PurePosixPath) -> dict[str, str]:
    """The C sources and tables of a package."""
    endings = (".c", ".h", ".json")
    files = (file for file in resources.files(package).iterdir() if file.name.endswith(endings))
    return {str(folder / file.name): file.read_text(encoding="utf-8") for file in files}


def main() -> None:
    parser = argparse.ArgumentParser(description="write a variant's kernels as a repository for the Hub")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--attention", default="sa-softmax")
    given = parser.parse_args()
    written = write(given.folder, given.attention)
    print(f"{len(written)} files; try them: LOCAL_KERNELS=org/{given.attention}={given.folder}")


if __name__ == "__main__":
    main()
