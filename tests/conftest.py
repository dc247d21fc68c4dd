import os
import sys
import tempfile
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from forks import Forks

pytest_plugins = ["browser"]

_code = tempfile.TemporaryDirectory()  # of this run, which its processes share
os.environ.setdefault("ELMAN_CACHE", _code.name)
os.environ["MPLBACKEND"] = "Agg"
# Children compile elman once and find its bytecode afterwards, whatever the environment says of bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["TRITON_INTERPRET"] = (
    "1"  # kernels for a GPU run in Triton's interpreter; it is chosen when Triton is imported
)
torch.set_num_threads(1)
settings.register_profile("elman", deadline=None, derandomize=True)
settings.load_profile("elman")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """New processes, with torch imported and elman not."""
    forks = Forks()
    yield forks
    forks.close()
