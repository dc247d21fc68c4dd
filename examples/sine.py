"""A GRU learns to predict a wave one step ahead, by squared error, and then continues the wave alone.

The wave is a sum of two sines, and never repeats itself. The GRU is trained by truncated BPTT on one long stream, with
an update every 25 steps and gradients that reach back 50 steps. Then it reads its own predictions.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import elman


def waves(steps: int, size: int) -> Tensor:
    """Returns waves (T, B, 1) with values between -1 and 1. Each of the B waves has phases of its own."""
    time = torch.arange(steps, dtype=torch.float32)[:, None]
    phase = 6.28 * torch.rand(2, size)
    return (0.5 * torch.sin(0.2 * time + phase[0]) + 0.5 * torch.sin(0.311 * time + phase[1]))[..., None]


class Forecaster(nn.Module):
    def __init__(self, hidden_size: int = 64):
        super().__init__()
        self.recurrent = elman.GRU(1, hidden_size)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, h_n = self.recurrent(x, h_0)  # (T, B, H)
        return self.output(h), h_n  # (T, B, 1): the next values

    @torch.inference_mode()
    def go_on(self, seen: Tensor, steps: int) -> Tensor:
        """Reads `seen`, (T, B, 1), and then its own predictions. Returns these: (steps, B, 1)."""
        prediction, state = self(seen)
        alone = [prediction[-1:]]
        for _ in range(steps - 1):
            prediction, state = self(alone[-1], state)
            alone.append(prediction)
        return torch.cat(alone)


def train(steps: int) -> Forecaster:
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps // 25)
    wave = waves(steps + 1, size=16)
    for number, window in enumerate(elman.tbptt((wave[:-1], wave[1:]), k1=25, k2=50), start=1):
        prediction, target = window.run(model)
        loss = nn.functional.mse_loss(prediction, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay.step()
        if number % 200 == 0:
            print(f"  step {window.stop}: squared error {loss.item():.6f}", flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a GRU to continue a wave.")
    parser.add_argument("--steps", type=int, default=30_000, help="length of the stream to learn from")
    parser.add_argument("--ahead", type=int, default=50, help="steps to go on alone")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = train(arguments.steps)

    test = waves(200 + arguments.ahead, size=100)
    seen, truth = test[:200], test[200:]
    for name, guess in (("network", model.go_on(seen, arguments.ahead)), ("last value", seen[-1:].expand_as(truth))):
        print(
            f"{name}: squared error {nn.functional.mse_loss(guess, truth).item():.5f} over {arguments.ahead} steps ahead"
        )


if __name__ == "__main__":
    main()
