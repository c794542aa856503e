"""With FINETUNE_PREBUILT=1, as of `make wheel`, a wheel holds the compiled CPU kernel and is of one platform.

Without it nothing is compiled here, and a wheel is of any platform: the kernel is compiled at first use.
"""

import os
import platform
import runpy
import shlex
import subprocess
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

KERNEL = Path("finetune/attention/kernels/native")


class BuildWithKernel(build_py):
    """The modules, and the kernel once for each level of processors."""

    def run(self) -> None:
        super().run()
        levels = runpy.run_path(str(KERNEL / "levels.py"))
        flags = levels["FLAGS"]
        machine = platform.machine()
        sources = {path.name: path.read_text("utf-8") for path in KERNEL.glob("*.[ch]")}
        compiler = shlex.split(os.environ.get("CC") or "gcc")
        for level in levels["LEVELS"].get(machine, ()):
            made = Path(self.build_lib, KERNEL, "native.so")
            source = str(KERNEL / levels["SOURCE"])
            subprocess.run([*compiler, *flags, *level.flags, source, "-o", str(made)], check=True)
            name = levels["name"](machine, level, sources)
            made.rename(made.with_name(levels["file_name"](name, made.read_bytes())))


class PlatformWheel(bdist_wheel):
    """A wheel for any Python of this platform."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


prebuilt: dict[str, Any] = {"build_py": BuildWithKernel, "bdist_wheel": PlatformWheel}
setup(cmdclass=prebuilt if os.environ.get("FINETUNE_PREBUILT") == "1" else {})
