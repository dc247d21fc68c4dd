"""The likeliest sequence of tags of a conditional random field, as an operator: an exporter need not unroll its loop."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("elman::viterbi", mutates_args=())
def viterbi(scores: Tensor, transitions: Tensor, first: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
    """Returns the likeliest sequence of tags, (T, B); past the ends any. Shapes and equation: as in `elman.CRF`.

    Source: A. J. Viterbi, Error bounds for convolutional codes and an asymptotically optimum decoding algorithm (1967).
    """
    T, B, K = scores.shape
    # Step by step, the best score of all ways to a tag of the next step, and from which tag it comes. Behind the last
    # step of a sequence there is no tag, so that all ways come from the same one.
    reached, best = first.expand(B, K), scores.new_empty((T, B, K), dtype=torch.int32)
    for t in range(T):
        ends = (lengths == t + 1)[:, None, None]
        ways = (reached + scores[t])[:, :, None] + torch.where(ends, last[:, None], transitions)  # from, to
        reached, best[t] = ways.max(1)
        most = reached.amax(1, keepdim=True)  # without which digits would be lost on a long way
        reached = reached - most.clamp(min=torch.finfo(most.dtype).min)
    tags, tag = lengths.new_empty((T, B)), lengths.new_zeros((B, 1))
    for t in reversed(range(T)):
        tag = best[t].gather(1, tag).long()
        tags[t] = tag[:, 0]
    return tags


@viterbi.register_fake
def _(scores: Tensor, transitions: Tensor, first: Tensor, last: Tensor, lengths: Tensor) -> Tensor:
    return lengths.new_empty(scores.shape[:2])
