"""Builds of the kernel for processors that are not known when it is built, as in a wheel; imports no package.

``setup.py`` compiles them, and ``build.py`` opens the first that the processor at hand can run.
"""

import hashlib
from collections.abc import Collection, Mapping
from typing import NamedTuple

SOURCE = "native.c"
# Threads are of no OpenMP of the compiler's: see threads.h.
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-fopenmp-simd", "-shared")


class Level(NamedTuple):
    """One build: flags of the compiler, and what the processor must say it has (/proc/cpuinfo)."""

    name: str
    flags: tuple[str, ...]
    needs: tuple[str, ...]


_V3 = ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_WIDE = ("-march=x86-64-v4", "-mprefer-vector-width=512")
LEVELS = {
    "x86_64": (
        Level("v4-bf16", (*_WIDE, "-mavx512bf16"), (*_V4, "avx512_bf16")),
        Level("v4", _WIDE, _V4),
        Level("v3", ("-march=x86-64-v3",), _V3),
    ),
    "aarch64": (Level("v8", ("-march=armv8-a",), ("asimd",)),),
}
"""By machine, the best first. A processor below the last has no build."""


def fitting(machine: str, has: Collection[str]) -> list[Level]:
    """The levels that a processor with these flags can run, the best first."""
    return [level for level in LEVELS.get(machine, ()) if set(level.needs) <= set(has)]


def name(machine: str, level: Level, sources: Mapping[str, str]) -> str:
    """Of a build from these sources (text by name): other sources, another name."""
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:16]
    return f"native-{machine}-{level.name}-{digest}"


def file_name(build: str, library: bytes) -> str:
    """A library says its own checksum, so that a cut or damaged one is known before it is loaded."""
    return f"{build}-{hashlib.sha256(library).hexdigest()[:32]}.so"
