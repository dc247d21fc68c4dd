"""Recordings as steps of numbers: files of audio, or samples, as an ear hears them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from elman.datasets.tables import AUDIO, is_audio
from elman.errors import InputError
from elman.hearing import step_of
from elman.spectrum import Spectrum

LOUDEST = 100  # samples may be larger than full scale, which is 1, but not by any factor
SLOWEST = 1000  # samples a second
BLOCK = 1 << 20  # samples that are decoded at once


class Hearing(NamedTuple):
    """Where recordings are, and how they are heard."""

    column: str  # of files, or its name in JSON lines
    rate: int  # samples a second
    bands: int
    hop: float  # milliseconds from a step to the next
    samples: int = 0  # around each step, if they are given themselves to what hears them; 0 where bands are

    @property
    def names(self) -> tuple[str, ...]:
        """What the channels are called: the middle of each band."""
        return () if self.samples else tuple(f"{centre:.4g} Hz" for centre in spectrum(self).centres)


@lru_cache
def spectrum(hearing: Hearing) -> Spectrum:
    return Spectrum(hearing.rate, hearing.bands, hearing.hop)


class Heard(NamedTuple):
    """A recording."""

    steps: NDArray[np.float64]  # (T, bands), or (T, samples)
    digest: bytes
    length: float  # in seconds


def heard(given: Any, hearing: Hearing, folder: Path) -> Heard:
    """Returns a recording as steps, a digest of it, and its length.

    given: the path of a file, from the folder on or else from where the command runs; or samples in a list, of which 1 is
    full scale. Raises ValueError, with what is wrong with it, if it is neither.
    """
    samples, digest = _listed(given) if isinstance(given, list) else _file(given, hearing.rate, folder)
    if not len(samples):
        raise ValueError(f"has no samples at {hearing.rate} a second")
    fit = np.abs(samples) <= LOUDEST
    if not fit.all():
        value, place = samples[int(fit.argmin())], int(fit.argmin()) + 1
        if not np.isfinite(value):
            raise ValueError(f"has a sample that is no finite number, {value}, at {place}")
        raise ValueError(f"has a sample that is {value}, at {place}, but 1 is full scale; divide all by the largest")
    samples, length = samples.astype(np.float32), len(samples) / hearing.rate
    if hearing.samples:
        step = step_of(hearing.rate, hearing.hop)
        padded = np.pad(samples, ((hearing.samples - step) // 2, hearing.samples))
        around = sliding_window_view(padded, hearing.samples)[: len(samples) : step]
        return Heard(around.astype(np.float64), digest, length)
    return Heard(spectrum(hearing).of(torch.from_numpy(samples)).double().numpy(), digest, length)


def recordings(folder: Path) -> list[Path]:
    """Returns the files of audio in a folder, at any depth, in order; not those that are hidden.

    Raises InputError if there is none, or if a folder in it cannot be read.
    """
    found = list[Path]()

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read {error.filename}: {error.strerror}; give a folder that you may read") from error

    for name, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        place = Path(name)
        if place.resolve() in {each.resolve() for each in place.parents}:  # a link to where it is
            folders.clear()
            continue
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += (place / each for each in files if not each.startswith(".") and is_audio(place / each))
    if not found:
        raise InputError(f"{folder} is a folder without a recording ({', '.join(AUDIO)}); give one with some")
    return sorted(found)


def located(given: str | Path, folder: Path) -> Path:
    """Returns where a file is: from the folder on, or else from where the command runs."""
    path = folder / given
    return path if path.exists() else Path(given)


def _listed(given: list[Any]) -> tuple[NDArray[Any], bytes]:
    try:
        samples = np.array(given)
    except ValueError:  # lists of different lengths
        samples = np.zeros((0, 0))
    if samples.ndim != 1 or samples.dtype.kind not in "iuf":
        raise ValueError("should be a list of numbers, or the path of a file")
    samples = samples.astype(np.float64)
    return samples, hashlib.sha256(samples.tobytes()).digest()


def _file(given: Any, rate: int, folder: Path) -> tuple[NDArray[Any], bytes]:
    import soundfile

    if not isinstance(given, (str, Path)) or not str(given).strip():
        raise ValueError("should be the path of a file, or a list of numbers")
    try:
        path = located(given, folder)
        if not path.exists():
            raise ValueError(f"is {str(given)!r}, but there is no such file in {folder}, nor where the command runs")
        with path.open("rb", buffering=0) as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
            opened.seek(0)
            # By its number, since what a file is should not depend on its name.
            with soundfile.SoundFile(opened.fileno(), closefd=False) as file:
                if file.samplerate < SLOWEST:
                    raise OSError(f"it has {file.samplerate} samples a second, and at least {SLOWEST} are needed")
                parts = [np.zeros(0, np.float32), *_resampled(file, rate)]
    except (OSError, TypeError, RuntimeError) as error:  # soundfile and soxr raise any of these
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        raise ValueError(f"is {str(given)[:200]!r}, which cannot be read as audio: {reason}") from error
    return np.concatenate(parts), digest


def _resampled(file: Any, rate: int) -> Iterator[NDArray[np.float32]]:
    """Yields the samples of a file, the mean of its channels, as many a second."""
    import soxr

    stream = None if file.samplerate == rate else soxr.ResampleStream(file.samplerate, rate, 1, "float32")
    while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        samples = block.mean(1)
        yield samples if stream is None else stream.resample_chunk(samples)
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
