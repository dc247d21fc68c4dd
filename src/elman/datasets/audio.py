"""Recordings as steps of numbers: files of audio, or samples, as an ear hears them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elman.spectrum import Spectrum, step_of

LOUDEST = 1e6  # samples may be larger than full scale, which is 1, but not by any factor
BLOCK = 1 << 20  # samples that are decoded at once


class Hearing(NamedTuple):
    """Where recordings are, and how they are heard."""

    column: str  # of files, or its name in JSON lines
    rate: int  # samples a second
    bands: int
    hop: float  # milliseconds from a step to the next
    samples: bool = False  # whether a step is its samples, which whatever reads it hears itself

    @property
    def names(self) -> tuple[str, ...]:
        """What the channels are called: the middle of each band."""
        return () if self.samples else tuple(f"{centre:.4g} Hz" for centre in spectrum(self).centres)


@lru_cache
def spectrum(hearing: Hearing) -> Spectrum:
    return Spectrum(hearing.rate, hearing.bands, hearing.hop)


def heard(given: Any, hearing: Hearing, folder: Path) -> tuple[NDArray[np.float64], bytes]:
    """Returns a recording as steps, (T, bands), or (T, samples), and a digest of it.

    given: the path of a file, from the folder on or else from where the command runs; or samples in a list, of which 1 is
    full scale. Raises ValueError, with what is wrong with it, if it is neither.
    """
    samples, digest = _listed(given) if isinstance(given, list) else _file(given, hearing.rate, folder)
    if not len(samples):
        raise ValueError("has no samples")
    fit = np.abs(samples) <= LOUDEST
    if not fit.all():
        place = int(fit.argmin())
        raise ValueError(f"has a sample that is {samples[place]}, at {place + 1}, but 1 is full scale")
    samples = samples.astype(np.float32)
    if hearing.samples:
        step = step_of(hearing.rate, hearing.hop)
        return np.pad(samples, (0, -len(samples) % step)).reshape(-1, step).astype(np.float64), digest
    return spectrum(hearing).of(torch.from_numpy(samples)).double().numpy(), digest


def _listed(given: list[Any]) -> tuple[NDArray[Any], bytes]:
    try:
        samples = np.array(given, np.float64)
    except (ValueError, TypeError, OverflowError):
        samples = np.zeros((0, 0))
    if samples.ndim != 1:
        raise ValueError("should be a list of numbers, or the path of a file")
    return samples, hashlib.sha256(samples.tobytes()).digest()


def _file(given: Any, rate: int, folder: Path) -> tuple[NDArray[Any], bytes]:
    import soundfile

    if not isinstance(given, str) or not given.strip():
        raise ValueError("should be the path of a file, or a list of numbers")
    path = folder / given
    path = path if path.exists() else Path(given)
    if not path.exists():
        raise ValueError(f"is {given!r}, but there is no such file in {folder}")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        with soundfile.SoundFile(path) as file:
            parts = [np.zeros(0, np.float32), *_resampled(file, rate)]
    except (OSError, soundfile.SoundFileError) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        raise ValueError(f"is {given!r}, which cannot be read as audio: {reason}") from error
    return np.concatenate(parts), digest


def _resampled(file: Any, rate: int) -> Iterator[NDArray[np.float32]]:
    """Yields the samples of a file, the mean of its channels, as many a second."""
    import soxr

    blocks = (block.mean(1) for block in file.blocks(BLOCK, dtype="float32", always_2d=True))
    if file.samplerate == rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(file.samplerate, rate, 1, "float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
