"""The differences from torch.nn that docs/compatibility.md lists are the ones there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import elman
from differences import BETTER, BOTH, LEFT, Difference, outcome

ALL = (*BETTER, *LEFT, *BOTH)


@pytest.mark.parametrize("difference", ALL, ids=lambda difference: difference.what.replace("`", "")[:50])
def test_it_is_so(difference: Difference) -> None:
    assert outcome(difference, nn) == difference.torchs
    assert outcome(difference, elman) == difference.elmans


def test_the_page_is_up_to_date() -> None:
    maker = Path(__file__).parent.parent / "docs" / "make_compatibility.py"
    done = subprocess.run([sys.executable, maker, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
