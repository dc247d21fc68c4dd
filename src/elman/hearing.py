"""How recordings are divided into steps and into bands of frequencies. This file does not import torch."""

from __future__ import annotations

import math

WINDOW = 2.5  # of steps that are heard at once
FIFTH = 5  # of the bands, at most, are hidden at once in training


def step_of(rate: int, hop: float) -> int:
    """Returns how many samples a step has. rate: samples a second. hop: milliseconds from a step to the next."""
    return max(1, round(rate * hop / 1000))


def mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


def most_bands(rate: int, hop: float) -> int:
    """Returns how many bands can be told apart: the window has a fourth of a wave of a tone in the middle of the lowest one."""
    lowest = mel(1 / (4 * WINDOW * hop / 1000))
    return max(1, min(step_of(rate, hop), int(mel(rate / 2) / lowest) - 1))
