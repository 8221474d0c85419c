"""The package as a whole: its front door, its weight, its examples, and that it fits beside Colab's packages."""

import ast
import doctest
import importlib
import io
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import jaxtyping
import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version
from typer.testing import CliRunner

import gausstools as gt
from gausstools.__main__ import COMMANDS, _main, app
from gausstools.networks.imports import import_diffusers

ROOT = Path(__file__).parents[1]
MODULES = [module.name for module in pkgutil.walk_packages(gt.__path__, "gausstools.")]
ROOMS = [name for name in MODULES if name.count(".") == 1]
"""What users import from. The modules within a package stand behind what the package itself offers."""


@pytest.mark.parametrize("name", gt.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(gt, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_lists_the_known():
    with pytest.raises(AttributeError, match=r"no attribute 'Gauss'; it has .*Gaussian"):
        _ = gt.Gauss


@pytest.mark.parametrize("name", ["gausstools", *MODULES])
def test_examples_in_docstrings(name, monkeypatch):
    module = importlib.import_module(name)
    if name == "gausstools.commands.report":
        monkeypatch.setattr(module, "NFES", (6,))  # a report of all takes most of a minute; tests/test_report.py
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", ROOMS)
def test_every_public_class_and_function_has_an_example(name):
    """Aliases and constants are values, whose docstring is a string beside them."""
    module = importlib.import_module(name)
    values = {public: getattr(module, public) for public in module.__all__}
    defined = {public: value for public, value in values.items() if getattr(value, "__name__", None) == public}
    assert [public for public, value in defined.items() if ">>> " not in (value.__doc__ or "")] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_offers(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert all(hasattr(module, public) for public in module.__all__)


def test_every_folder_of_the_package_is_installed_and_the_data_with_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {
        "gausstools",
        *(module.name for module in pkgutil.walk_packages(gt.__path__, "gausstools.") if module.ispkg),
    }
    assert set(settings["packages"]) == packages | {"gausstools.data"}
    assert settings["package-dir"] == {"gausstools.data": "data"}
    assert settings["package-data"]["gausstools.data"] == ["*"]
    assert not [path for path in (ROOT / "data").iterdir() if path.is_dir()]  # into which the pattern does not reach


def test_import_is_light():
    """`import gausstools` alone brings in neither torch nor anything that only some rooms need."""
    code = "import sys, gausstools; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "matplotlib", "sklearn", "diffusers", "scipy"} & set(modules)


@pytest.mark.usefixtures("as_installed")  # typer's own contexts are no typer.Context
def test_a_command_says_what_it_can_where_the_encoding_has_no_greek(monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(sys, "argv", ["gausstools", "sample", "--help"])
    with pytest.raises(SystemExit, match="0"):
        _main()
    streams["stdout"].flush()
    assert b"uniform in ln ?" in streams["stdout"].buffer.getvalue()


NEEDED = {
    "fid": ["nothing", "--reference", "digits"],
    "report": ["digits", "--data", "digits"],
    "sample": ["digits", "--out", "nothing"],
    "stats": ["digits", "--out", "nothing"],
    "train": ["digits", "--out", "nothing"],
}


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("device", ["foo", "", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error_before_any_work(tmp_path, monkeypatch, name, device):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [name, *NEEDED[name], "--device", device])
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.match(f"error: device is '{device}', which torch cannot use here .*; give cpu", done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("num is 0"), "num is 0"),
        (ImportError("the digits come with x"), "the digits come with x"),
        (
            ModuleNotFoundError("No module named 'PIL'"),
            r"No module named 'PIL': pip install 'gausstools\[commands,figures\]'",
        ),
        (FileNotFoundError("there is no file x"), "there is no file x"),
        (
            OSError(28, "No space left on device", "a.png"),
            r"\[Errno 28\] No space left on device: 'a.png'; .* the disk, then run again",
        ),
        (MemoryError(), "not enough memory .*give a smaller --batch-size"),
        (RuntimeError("CUDA out of memory"), "not enough memory .*give a smaller --batch-size"),
        (EOFError("No data left in file"), r"a file is damaged, .*\(EOFError: No data left in file\); fetch the file"),
        (RecursionError("too deep"), r"a file is damaged, or a number too large \(RecursionError: too deep\); fetch"),
        (
            OverflowError("int too large"),
            r"a file is damaged, or a number too large .*int too large\); .* give another",
        ),
        (FloatingPointError("the loss is nan"), "the loss is nan"),
    ],
)
def test_what_the_input_caused_is_an_error_and_no_traceback(monkeypatch, error, message):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(gt.pretrained, "load", broken)
    done = CliRunner().invoke(app, ["sample", *NEEDED["sample"]])
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(f"error: {message}.*\n", done.stderr)


@pytest.mark.usefixtures("as_installed")
def test_a_file_that_is_no_array_is_named(tmp_path):
    (tmp_path / "empty.npz").touch()
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("a.txt", "no array")
    for file in tmp_path.iterdir():
        done = CliRunner().invoke(app, ["fid", str(file), "--reference", "digits", "--features", "small"])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: {file} ")


@pytest.mark.usefixtures("as_installed")
def test_what_the_library_caused_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(gt.pretrained, "load", lambda *_, **__: None + 1)
    with pytest.raises(TypeError):
        CliRunner().invoke(app, ["sample", *NEEDED["sample"]], catch_exceptions=False)


@pytest.mark.parametrize(("missing", "extra"), [("PIL", "data"), ("diffusers", "networks"), ("numpy", "networks")])
def test_what_diffusers_lacks_is_told_with_its_extra(tmp_path, monkeypatch, missing, extra):
    (tmp_path / "diffusers.py").write_text(f"raise ModuleNotFoundError(name={missing!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    lacking = ", which lacks Pillow" if missing == "PIL" else ""
    with pytest.raises(ImportError, match=rf"^this is one of diffusers{lacking}: pip install 'gausstools\[{extra}\]'$"):
        import_diffusers("this is one of")


def test_without_typer_the_command_line_says_what_to_install():
    code = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('gausstools', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: the command line needs typer: pip install 'gausstools[commands]'\n"


def test_numpy_torch_and_all_else_have_lower_bounds_that_colab_meets():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "book" / "pipeline" / "colab-packages.txt").read_text(encoding="utf-8").splitlines()
    colab = dict(line.split("==") for line in lines if "==" in line)
    extras = project["optional-dependencies"]
    wanted = [Requirement(r) for r in (*project["dependencies"], *extras["data"], *extras["figures"])]
    assert {"numpy", "torch"} <= {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert {clause.operator for clause in requirement.specifier} == {">="}
        if requirement.name in colab:
            assert Version(colab[requirement.name]) in requirement.specifier, requirement
    assert not any("torchvision" in str(requirement) for requirement in wanted)


def test_the_lock_is_exact_and_satisfies_the_package():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    lock = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = (requirement for extra in project["optional-dependencies"].values() for requirement in extra)
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name != "gausstools":
            assert Version(lock[requirement.name]) in requirement.specifier, requirement


def test_annotated_shapes_are_checked_while_the_tests_run():
    """Proof that the import hook of conftest.py is at work: an answer that has lost a row does not pass."""
    with pytest.raises(jaxtyping.TypeCheckError, match="denoised"):
        gt.samplers.Evaluation(torch.ones(2, 3), 1.0, denoised=torch.ones(1, 3))


FLOORS = (
    ("denoiser", "noise"),
    ("models", "networks", "datasets", "shipped"),
    ("samplers", "teleportation", "compare", "theory", "convergence", "training", "features", "pretrained"),
    ("commands", "diffusers", "figures"),
)


def test_no_module_imports_from_a_floor_above():
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    package = ROOT / "gausstools"
    rooms = {path.stem for path in package.iterdir() if not path.stem.startswith(("_", "."))}
    assert rooms == floors.keys()
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if room in floors and isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gausstools."):
                assert floors[node.module.split(".")[1]] <= floors[room], f"{path}:{node.lineno}"


def test_the_page_on_the_house_names_places_that_are_there():
    page = (ROOT / "book" / "house.md").read_text("utf-8")
    named = re.findall(r"`([\w/]+(?:\.py|/))`", page)
    assert len(named) > 25
    places = [ROOT / "gausstools", ROOT / "gausstools/samplers", ROOT, ROOT / "book/pipeline"]
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
