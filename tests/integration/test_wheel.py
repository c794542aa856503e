"""What is installed: one name, ``finetune``, which trains from any folder and beside any other package."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from finetune.attention.kernels.native.build import _processor
from finetune.attention.kernels.native.levels import LEVELS, fitting
from finetune.records import store

pytestmark = pytest.mark.slow  # builds, installs and new environments

ROOT = Path(__file__).parents[2]
SHIPPED = ["finetune", "tasks", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"]
LINKS = ("finetune/tasks", "finetune/configs")
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-index", "--no-build-isolation"]
# 2 steps on 64 rows; every other option has its quick value.
QUICK = (
    "classify --task agnews --data sample --attention softmax,sa-softmax --data.train_rows 64 "
    "--data.test_rows 16 --data.validation_rows 8 --data.max_length 16 --model.vocab_size 300 "
    "--train.max_steps 2 --train.per_device_train_batch_size 8 --train.eval_strategy no "
    "--train.save_strategy no"
)
# What somebody else's packages of our folders' names say, and what of ours is there beside them.
BESIDE = """
import configs, tasks, tests
assert {configs.OWNER, tasks.OWNER, tests.OWNER} == {"somebody else"}, (configs, tasks, tests)
import finetune.tasks
from finetune.config.loading import preset_names, shipped
assert finetune.tasks.get_task("agnews").name == "agnews"
assert "quick" in preset_names("classification")
assert shipped().joinpath("studies", "quick.yaml").is_file()
print(finetune.tasks.__file__)
"""
# A declaration of the days when our folder was called so in site-packages.
OLD = """
from tasks.base import ClassificationTask
import tasks
TASK = ClassificationTask(name="mail", title=tasks.OWNER, text=("body",), label="kind", labels=("no", "yes"))
"""


def python(
    words: list[str], folder: Path, executable: Path | str = sys.executable, **variables: str
) -> tuple[int, str, str]:
    """Run Python with ``words`` in ``folder``: exit status, output, errors. Nothing of the tree leaks in."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    clean |= variables
    done = subprocess.run(
        [str(executable), *words], cwd=folder, env=clean, check=False, capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def run(words: list[str], folder: Path, executable: Path | str = sys.executable, **variables: str) -> str:
    """The output of what must succeed."""
    status, output, errors = python(words, folder, executable, **variables)
    assert status == 0, f"{words}\n{output}\n{errors}"
    return output


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that neither build outputs nor an editable installation of the tree matter."""
    tree = tmp_path_factory.mktemp("tree")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope="module")
def wheels(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel of the tree, and the one of its source distribution."""
    # No isolation, which would fetch setuptools: build comes with the dev extra, setuptools with torch.
    built = []
    for way in (
        ["--wheel"],
        [],
    ):  # without a word build makes the source distribution, and the wheel from that
        out = tmp_path_factory.mktemp("out")
        run(["-m", "build", "--no-isolation", *way, "--outdir", str(out), "."], tree)
        built += out.glob("*.whl")
    return built


def environment(folder: Path) -> Path:
    """The Python of a new environment that has this one's libraries, and somebody else's three packages."""
    run(["-m", "venv", "--without-pip", str(folder)], folder.parent)
    executable = folder / "bin" / "python"
    place = run(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder, executable).strip()
    # A path alone: the .pth files that lie there, an editable installation's among them, are not read.
    Path(place, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("tasks", "configs", "tests"):
        Path(place, name).mkdir()
        Path(place, name, "__init__.py").write_text("OWNER = 'somebody else'\n")
    return executable


def test_a_wheel_holds_every_module_and_preset_below_one_name(wheels: list[Path]) -> None:
    endings = ("*.py", "*.typed", "*.c", "*.h", "*.css", "*.jinja", "*.js", "LICENSE")
    kept = ["finetune/explorer/carried/README.md", "finetune/attention/kernels/triton/tiles.json"]
    package = [*kept, *(f"finetune/**/{ending}" for ending in endings)]
    patterns = (*package, "tasks/*.py", "configs/*.py", "configs/**/*.yaml")
    files = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    shipped = {name if name.startswith("finetune/") else f"finetune/{name}" for name in files}
    for wheel in wheels:
        names = set(zipfile.ZipFile(wheel).namelist())
        assert {name for name in names if ".dist-info/" not in name} == shipped
        assert any(name.endswith("LICENSE") for name in names)


def test_a_wheel_trains_from_another_folder_beside_packages_of_our_folders_names(
    wheels: list[Path], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    executable = environment(tmp_path / "env")
    run([*PIP, "--python", str(executable), "install", *OFFLINE, str(wheels[-1])], elsewhere)
    assert (executable.parent / "finetune").is_file()
    assert Path(run(["-c", BESIDE], elsewhere, executable).strip()).is_relative_to(tmp_path / "env")
    (tmp_path / "mine.py").write_text(OLD)
    ask = f"import finetune.tasks; print(finetune.tasks.get_task({str(tmp_path / 'mine.py')!r}).title)"
    assert run(["-c", ask], elsewhere, executable).strip() == "somebody else"

    printed = run(["-m", "finetune", *QUICK.split()], elsewhere, executable)
    for variant in ("softmax", "sa-softmax"):
        found = store.read(elsewhere / "runs/agnews/scratch-tiny" / variant / "seed-0")
        assert found["status"] == "finished"
        assert found["git"] is None, "the installed code is no checkout"
    assert "SAMPLE" in printed
    assert (elsewhere / "runs").is_dir() and [path.name for path in elsewhere.iterdir()] == ["runs"]


def test_an_editable_installation_owns_one_name_too(tree: Path, tmp_path: Path) -> None:
    executable = environment(tmp_path / "env")
    run([*PIP, "--python", str(executable), "install", *OFFLINE, "--editable", str(tree)], tmp_path)
    assert Path(run(["-c", BESIDE], tmp_path, executable).strip()).is_relative_to(tree)
    for name in ("tasks", "configs", "tests"):
        shutil.rmtree(next((tmp_path / "env").glob(f"lib/*/site-packages/{name}")))
        status, _, errors = python(["-c", f"import {name}"], tmp_path, executable)
        assert status == 1 and f"No module named '{name}'" in errors


def test_a_checkout_without_links_says_so(tree: Path, tmp_path: Path) -> None:
    """git writes a link as a file that holds its end where core.symlinks is false, as on many a Windows."""
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy, symlinks=True)
    for link in LINKS:
        assert (copy / link).is_symlink()
        end = os.readlink(copy / link)
        (copy / link).unlink()
        (copy / link).write_text(end)
    executable = environment(tmp_path / "env")
    status, _, errors = python(["-m", "finetune", "tasks"], copy, executable)
    assert status == 2 and errors.count("\n") == 1
    assert "git config core.symlinks true, then git checkout -- finetune" in errors


# Without a compiler, and without a cache that anything was kept in.
COMPUTES = """
import sys
import torch
from finetune.attention import VARIANTS
from finetune.attention.kernels import dispatch, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.kernels.native import build
if len(sys.argv) > 1:
    build._processor = lambda: sys.argv[1]
torch.manual_seed(0)
tensors = [torch.randn(2, 3, 50, 24, requires_grad=True) for _ in range(3)]
inputs, variant = Inputs(*tensors, None, None, True, 0.2, 0.0), BoundVariant.of(VARIANTS["sa-softmax"])
def results(output):
    return [output, *torch.autograd.grad(output.square().sum(), tensors)]
output, _, kernel = dispatch.attend(inputs, variant, "auto")
for ours, theirs in zip(results(output), results(reference.reference(inputs, variant)[0])):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
print(kernel)
"""


@pytest.mark.timeout(900)  # it compiles three times
def test_a_wheel_of_one_platform_computes_without_a_compiler(tree: Path, tmp_path: Path) -> None:
    machine = platform.machine()
    if machine not in LEVELS or shutil.which("gcc") is None:
        pytest.skip(f"no build is made for {machine}, or there is no gcc to make it")
    build = ["-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path / "out"), "."]
    run(build, tree, FINETUNE_PREBUILT="1")
    (wheel,) = (tmp_path / "out").glob("*.whl")
    assert wheel.name.endswith(f"-py3-none-linux_{machine}.whl")
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert len(libraries) == len(LEVELS[machine])
    executable = environment(tmp_path / "env")
    run([*PIP, "--python", str(executable), "install", *OFFLINE, str(wheel)], tmp_path)
    nowhere = {"CC": "false", "PATH": str(tmp_path), "FINETUNE_CACHE": str(tmp_path / "cache")}
    if fitting(machine, _processor().split()):
        assert run(["-c", COMPUTES], tmp_path, executable, **nowhere) == "native\n"
        assert not (tmp_path / "cache").exists()
    assert run(["-c", COMPUTES, "flags : fpu sse2"], tmp_path, executable, **nowhere) == "blocked\n"
    for library in (tmp_path / "env").rglob("native-*.so"):
        os.truncate(library, 20_000)
    status, output, errors = python(["-c", COMPUTES], tmp_path, executable, **nowhere)
    assert (status, output) == (0, "blocked\n"), errors
    if fitting(machine, _processor().split()):
        assert "it is damaged" in errors and "CC=false names no program" in errors
