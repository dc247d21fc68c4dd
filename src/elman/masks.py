"""Which steps the rows of a batch have, and before which of them they start afresh, from a call's lengths and resets."""

from __future__ import annotations

import torch
from torch import Tensor

from elman.layout import Call

# What stands for a stream at a step that a row does not have. Zero does for x, but a step may take the logarithm of a
# stream or divide by it, and zero times infinity is NaN.
MISSING = 0.5


def masks(call: Call, reverse: bool) -> tuple[Tensor | None, Tensor | None]:
    """Returns two masks (T, B, 1): the steps that each row has, and those that go on from the state before.

    A mask is None where it would be true everywhere. The state before is that of the step which the direction did
    before. A step that a row does not have does not go on either, so that no value of the row enters it.
    """
    if call.lengths is None and call.reset is None:
        return None, None
    steps, batch, _ = call.x.shape
    present = goes_on = torch.ones(steps, batch, 1, dtype=torch.bool, device=call.x.device)
    if call.lengths is not None:
        numbers = torch.arange(steps, device=call.x.device).reshape(steps, 1, 1)
        present = goes_on = numbers < call.lengths.unsqueeze(-1)
    if call.reset is not None:
        cuts = call.reset.unsqueeze(-1) & present  # before a step that the row has
        if reverse:
            cuts = torch.cat([cuts[1:], torch.zeros_like(cuts[:1])])
        goes_on = present & ~cuts
    return None if call.lengths is None else present, goes_on
