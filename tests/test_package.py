"""The package as a whole: its front door, its weight, its examples, and that it fits beside Colab's packages."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import pytest
import torch
from packaging.requirements import Requirement
from packaging.version import Version

import gausstools as gt

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
def test_examples_in_docstrings(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


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


def test_a_command_says_what_it_can_where_the_encoding_has_no_greek():
    narrow = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "gausstools", "sample", "--help"], capture_output=True, env=narrow)
    assert done.returncode == 0, done.stderr
    assert b"uniform in ln ?" in done.stdout


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
    """Proof that the import hook of conftest.py is at work: a state that has lost a row does not pass."""
    with pytest.raises(jaxtyping.TypeCheckError, match="denoised"):
        gt.samplers.State(torch.ones(2, 3), 1.0, denoised=torch.ones(1, 3))
