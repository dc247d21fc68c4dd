"""What becomes of two directions: merged outputs, and names for final states and halves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import elman
from cases import CELLS, close, hidden, inputs, layer, recurrent, run

MERGES = {"concat": lambda a, b: torch.cat([a, b], dim=-1), "sum": torch.add, "mean": lambda a, b: (a + b) / 2}


def alone(of: Any, number: int, d: int, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One layer in one direction, as a layer of its own that reads x forwards."""
    one = recurrent(of.cell, x.shape[-1], of.hidden_size, proj_size=of.proj_size)
    suffix = f"_l{number}" + ("_reverse" if d else "")
    weights = {name.partition("_l")[0]: w for name, w in of.named_parameters() if name.endswith(suffix)}
    one.load_state_dict({f"{name}_l0": w for name, w in weights.items()})
    row = 2 * number + d
    output, *finals = run(one, x.flip(0) if d else x, tuple(s[row : row + 1] for s in states))
    return output.flip(0) if d else output, *finals


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("name", CELLS)
def test_directions_are_merged_in_every_layer(name: str, merge: str) -> None:
    of = layer(name, 3, 5, num_layers=2, bidirectional=True, merge=merge)
    x, states = inputs(of, 6, 4)
    output, *h_n = run(of, x, states)
    for number in range(2):
        (a, *ends), (b, *others) = (alone(of, number, d, x, states) for d in range(2))
        named = of.final_states(hidden(tuple(h_n)))
        for k, state in enumerate(of.cell.states):
            close(named[state][number], (ends[k][0], others[k][0]))
        x = MERGES[merge](a, b)
    close(output, x)
    with torch.no_grad():
        frozen = elman.freeze(of)
        close(run(frozen, inputs(of, 6, 4)[0], states), (output, *h_n))
    assert ("merge" in repr(of)) == (merge != "concat")


def test_halves_and_last_outputs() -> None:
    lengths = [6, 2, 0, 5]
    for batch_first in (False, True):
        of = layer("lstm", 3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
        x, states = inputs(of, 6, 4)
        output, (h_n, c_n) = of(x.transpose(0, 1) if batch_first else x, states, lengths=lengths)
        last, halves, named = of.last_output(output, lengths), of.halves(output), of.final_states((h_n, c_n))
        assert halves.reverse is not None
        close(torch.cat([halves.forward, halves.reverse], dim=-1), output)
        time_first = output.transpose(0, 1) if batch_first else output
        for b, length in enumerate(lengths):
            if not length:
                assert (last[b] == 0).all()
                continue
            close(last[b], time_first[length - 1, b])
            close(last[b, :5], named["h"][-1].forward[b])
            assert named["h"][-1].reverse is not None
            close(time_first[0, b, 5:], named["h"][-1].reverse[b])
        close(named["c"][0].forward, c_n[0])
        close(of.last_output(output), time_first[-1])
    of = layer("gru", 3, 5)
    output, h_n = of(inputs(of, 6, 4)[0][:, 0])
    assert of.halves(output).reverse is None
    close(of.last_output(output), of.final_states(h_n)["h"][0].forward)
    close(of.last_output(output, torch.tensor(3)), output[2])


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="merge should be one of concat, sum, mean, got 'max'"):
        elman.GRU(3, 5, bidirectional=True, merge="max")
    with pytest.raises(ValueError, match="merge='sum' needs bidirectional=True"):
        elman.LSTM(3, 5, merge="sum")
    of = elman.RNN(3, 5, bidirectional=True, merge="mean")
    with pytest.raises(RuntimeError, match="RNN: the directions were merged by 'mean'"):
        of.halves(of(torch.randn(6, 4, 3))[0])
