import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from hypothesis import Phase, settings

# As plugins, pytest would look for both among all packages that are installed, in each of the processes of mutants.
from browser import browser, launched, open_page  # noqa: F401
from forks import Forks
from gpu_forms import form, resident  # noqa: F401

_code = tempfile.TemporaryDirectory()  # of this run, which its processes share
os.environ.setdefault("ELMAN_CACHE", _code.name)
_mutants = tempfile.TemporaryDirectory()  # likewise, for machine_code.py
os.environ.setdefault("MACHINE_CODE", _mutants.name)
os.environ["MPLBACKEND"] = "Agg"
# Children compile elman once and find its bytecode afterwards, whatever the environment says of bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["TRITON_INTERPRET"] = (
    "1"  # kernels for a GPU run in Triton's interpreter; it is chosen when Triton is imported
)
torch.set_num_threads(1)
# Once everything is imported and frozen, what a test makes is soon more than a quarter of the rest, and then Python looks
# at all of it for garbage, again and again: that was a fifteenth of the time. Tests that wait for garbage collect it.
gc.set_threshold(50_000, 20, 20)
os.fsync = lambda _: None  # no test ends the machine, and disks take milliseconds
# Who only asks whether a test fails, as test_mutants.py does, needs no smallest example.
phases = [each for each in Phase if each not in (Phase.shrink, Phase.explain) or "ANY_EXAMPLE" not in os.environ]
settings.register_profile(
    "elman", deadline=None, derandomize=True, phases=phases, report_multiple_bugs="ANY_EXAMPLE" not in os.environ
)
settings.load_profile("elman")


def pytest_collection_finish(session: pytest.Session) -> None:
    if any("onnx" in item.nodeid for item in session.items):
        import torchlib

        torchlib.remember()
    gc.collect()
    gc.freeze()  # a look for garbage among all that was imported takes a fifth of a second, each time


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or Triton complains of what is left at the end


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """New processes, with torch imported and elman not."""
    forks = Forks.inherited or Forks()
    yield forks
    forks.close()


@pytest.fixture
def pictures() -> None:
    """Asked for by a test that looks at pictures, in a file that has `no_pictures` for the others."""


@pytest.fixture
def no_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pictures are empty files: to draw one takes as long as to train a tiny network. test_charts.py looks at them."""
    import tiny_runs

    with nullcontext() if "pictures" in request.fixturenames else tiny_runs.without_pictures():
        yield
