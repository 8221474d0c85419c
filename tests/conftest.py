"""Shared by all tests: shapes checked at run time, one thread, random cases that can be repeated."""

import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

# Every annotation in the library is checked while the tests run; readers do not pay for it.
install_import_hook("gausstools", "beartype.beartype")

import pytest  # noqa: E402

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def as_installed():
    """The library as users have it, without the shape checks, so that its own error messages are what is tested."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
