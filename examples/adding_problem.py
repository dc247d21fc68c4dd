"""The adding problem, which takes a long memory.

A sequence is T pairs of a number and a mark. Two marks are 1, one in each half of the sequence; all others are 0. The
target is the sum of the two marked numbers. A model that always answers the mean has a squared error of 1/6. To beat
it, a model must remember a number over about T/2 steps.
Source: S. Hochreiter & J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997), section 5.4.

    python examples/adding_problem.py     # T = 200: the Elman network fails, LSTM and GRU succeed
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import elman
from elman.initialise import gate_bias

CHANCE = 1 / 6  # the variance of a sum of two uniform numbers


def batch(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Returns sequences of pairs (T, B, 2), and the sums of their marked numbers (B,)."""
    numbers = torch.rand(length, size)
    marks = torch.zeros(length, size)
    for start, end in ((0, length // 2), (length // 2, length)):
        marks[torch.randint(start, end, (size,)), torch.arange(size)] = 1.0
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(0)


class Adder(nn.Module):
    def __init__(self, cell: elman.Cell, length: int, hidden_size: int):
        super().__init__()
        self.recurrent = elman.Recurrent(cell, 2, hidden_size)
        self.output = nn.Linear(hidden_size, 1)
        if "f" in cell.gates:  # start with memories of up to the length of a sequence: Tallec & Ollivier (2018)
            spans = torch.empty(hidden_size).uniform_(1, length - 1).log()
            gate_bias(self.recurrent, f=spans, i=-spans)

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.recurrent(x)  # (T, B, H)
        return self.output(output[-1]).squeeze(-1)  # (B,)


def train(cell: elman.Cell, length: int, updates: int, hidden_size: int = 64, size: int = 32) -> float:
    """Returns the squared error on new sequences after training, which stops early below a tenth of CHANCE."""
    torch.manual_seed(0)
    model, average = Adder(cell, length, hidden_size), CHANCE
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for update in range(1, updates + 1):
        x, y = batch(length, size)
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average = 0.98 * average + 0.02 * loss.item()
        if update % 250 == 0:
            print(f"  {cell.name}: update {update}, squared error {average:.4f}", flush=True)
        if average < CHANCE / 10:
            break
    x, y = batch(length, 1000)
    with torch.inference_mode():
        return nn.functional.mse_loss(model(x), y).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=200, help="steps in a sequence")
    parser.add_argument("--updates", type=int, default=2000, help="updates at most")
    arguments = parser.parse_args()
    for cell in (elman.cells.rnn, elman.cells.lstm, elman.cells.gru):
        error = train(cell, arguments.length, arguments.updates)
        verdict = "learned" if error < CHANCE / 4 else "not learned"
        print(f"{cell.name}: squared error {error:.4f}, chance {CHANCE:.4f}: {verdict}")


if __name__ == "__main__":
    main()
