"""Exports every cell in all sixteen forms, and judges each by the accuracy rule: python bench/onnx_forms.py

The suite tries five of them, in which every two choices meet.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from test_onnx_export import BUILT_IN, OWN, check_cells  # pyright: ignore[reportMissingImports]

for layers, bidirectional, states, lengths in itertools.product((1, 3), (False, True), (False, True), (False, True)):
    error = check_cells([*BUILT_IN, *OWN], layers, bidirectional, states, lengths)
    said = [
        name for name, given in (("both directions", bidirectional), ("states", states), ("lengths", lengths)) if given
    ]
    form = ", ".join([f"{layers} {'layer' if layers == 1 else 'layers'}", *said])
    print(f"{form}: right; ONNX Runtime's error is at most {error:.2f} times PyTorch's")
