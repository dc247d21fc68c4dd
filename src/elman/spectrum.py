"""What an ear hears of samples: how strong each band of frequencies is, step by step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from elman.hearing import FIFTH, WINDOW, mel, step_of

FLOOR = 1e-8  # the least power, where noise of the same power is 80 decibels below full scale
AT_ONCE = 1 << 12  # steps of a long recording


class Spectrum(nn.Module):
    """Samples of audio as logarithms of the power in bands of frequencies, at each step.

        P_k = |sum over n of w_n x_n exp(-2 pi i k n / N)|^2 / sum over n of w_n^2
        y_b = log(FLOOR + sum over k of F_bk P_k)

    x are the samples of 2.5 steps, around the middle of the step, and w is Hann's window. F_b is a triangle over the
    frequencies k rate / N, whose sum is 1. The triangles overlap by half, and are equally wide in mel, 2595 log10(1 + f / 700),
    so that low frequencies are told apart as an ear does. There is nothing before the first sample and after the last.

    forward(samples) takes samples (S, B), of which 1 is full scale, and returns (T, B, bands) with T = ceil(S / step). The
    constants are not part of the model's state.

    Source: S. Davis & P. Mermelstein, Comparison of parametric representations for monosyllabic word recognition (1980); the
    formula for mel: D. O'Shaughnessy, Speech communication (1987).
    """

    waves: Tensor  # buffers
    triangles: Tensor
    floor: Tensor

    def __init__(self, rate: int, bands: int, hop: float):
        """rate: samples a second. hop: milliseconds from a step to the next, which are rounded to samples."""
        super().__init__()
        self.rate, self.bands, self.step = rate, bands, step_of(rate, hop)
        self.width = width = round(WINDOW * self.step)
        self.before, self.after = (width - self.step) // 2, width - (width - self.step) // 2 - 1
        edges = torch.linspace(0, mel(rate / 2), bands + 2, dtype=torch.float64)
        edges = 700 * (10 ** (edges / 2595) - 1)  # in hertz
        self.centres = edges[1:-1].tolist()
        size = 2 ** math.ceil(math.log2(width))
        frequencies, triangles = _triangles(edges, rate, size)
        while not triangles.any(1).all():  # finer, until each band has a frequency
            size *= 2
            frequencies, triangles = _triangles(edges, rate, size)
        own = triangles.any(0)  # frequencies of any band
        turns = torch.arange(width, dtype=torch.float64) * (2 * math.pi / rate) * frequencies[own][:, None]
        window = torch.hann_window(width, dtype=torch.float64)
        waves = torch.cat([turns.cos(), turns.sin()]) * window / window.square().sum().sqrt()
        self.register_buffer("waves", waves.float()[:, None], persistent=False)  # (2 frequencies, 1, width)
        triangles = triangles[:, own] / triangles.sum(1, keepdim=True)
        both = torch.cat([triangles, triangles], 1)[..., None]  # of cosines and of sines
        self.register_buffer("triangles", both.float(), persistent=False)  # (bands, 2 frequencies, 1)
        # Not added as a number of its own: torch's exporter takes one so small for nothing.
        self.register_buffer("floor", torch.full((bands,), FLOOR), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        return self._heard(pad(samples.T, (self.before, self.after)))

    @torch.no_grad()
    def of(self, samples: Tensor) -> Tensor:
        """Returns what `forward` does of a long recording (S,), (T, bands), a part of it at a time."""
        padded, steps = pad(samples, (self.before, self.after)), -(-len(samples) // self.step)
        around = self.width - self.step
        parts = ((first * self.step, (first + AT_ONCE) * self.step + around) for first in range(0, steps, AT_ONCE))
        return torch.cat([self._heard(padded[None, begin:end])[:, 0] for begin, end in parts])

    def at_step(self, samples: Tensor) -> Tensor:
        """Returns what is heard at one step, (B, bands). samples: those around it, (B, width)."""
        return self._heard(samples)[0]

    def _heard(self, padded: Tensor) -> Tensor:
        """Returns (T, B, bands) of samples with what is around them, (B, S)."""
        power = conv1d(padded[:, None], self.waves, stride=self.step).square()  # (B, 2 frequencies, T)
        return conv1d(power, self.triangles, self.floor).log().permute(2, 0, 1)


def _triangles(edges: Tensor, rate: int, size: int) -> tuple[Tensor, Tensor]:
    """Returns as many frequencies as `size` samples tell apart, (F,), and how much each counts in each band, (bands, F)."""
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * (rate / size)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - left) / (centre - left), (right - frequencies) / (right - centre)
    return frequencies, torch.minimum(rising, falling).clamp(min=0)


def hide_bands(x: Tensor, times: int) -> None:
    """Sets some neighbouring bands of each of B recordings to 0, so many times; x (T, B, bands), in deviations from their means.

    Each time these are up to a fifth of the bands, from a random one on.
    Source: D. S. Park et al., SpecAugment: a simple data augmentation method for automatic speech recognition (2019).
    """
    B, bands = x.shape[1:]
    band = torch.arange(bands)
    for _ in range(times):
        width = torch.randint(bands // FIFTH + 1, (B, 1))
        first = (torch.rand(B, 1) * (bands - width + 1)).long()
        x.masked_fill_((band >= first) & (band < first + width), 0)
