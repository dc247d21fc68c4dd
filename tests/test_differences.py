"""The differences from torch.nn that docs/compatibility.md lists are the ones there are."""

from __future__ import annotations

import os

import pytest
from torch import nn

import elman
from differences import BETTER, BOTH, LEFT, Difference, outcome
from forks import ROOT, RUN, Child, Forks

ALL = (*BETTER, *LEFT, *BOTH)


@pytest.mark.parametrize("difference", ALL, ids=lambda difference: difference.what.replace("`", "")[:50])
def test_it_is_so(difference: Difference) -> None:
    assert outcome(difference, nn) == difference.torchs
    assert outcome(difference, elman) == difference.elmans


def test_the_page_is_up_to_date(forks: Forks) -> None:
    quiet = {"PYTEST_ADDOPTS": "-W ignore::pytest.PytestAssertRewriteWarning"}  # of what forks have imported
    (done,) = forks.run(Child(RUN, (str(ROOT / "docs/make_compatibility.py"), "--check"), os.environ | quiet))
    assert done.returncode == 0, done.stderr
