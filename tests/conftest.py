import os

import pytest
import torch
from hypothesis import settings

os.environ["MPLBACKEND"] = "Agg"
torch.set_num_threads(1)
settings.register_profile("elman", deadline=None, derandomize=True)
settings.load_profile("elman")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Known and open: the `cpu` engine misses the accuracy rule for the GRUs and for long sums in float32."""
    for item in items:
        if "test_accuracy.py" not in item.nodeid:
            continue
        gru = "gru" in item.name and (item.name.endswith("-cpu]") or item.name.startswith("test_sizes"))
        if gru or item.name.startswith("test_long_sums"):
            item.add_marker(pytest.mark.xfail(reason="engine cpu, float32: less accurate than PyTorch", strict=False))
