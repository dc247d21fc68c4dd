"""Recordings of a speech synthesizer: digits and numbers in many voices, which `pip install espeakng-loader` brings.

Half of the voices are for training, and the other half for testing. Each recording has another speed, pitch, loudness and noise.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import soundfile
from numpy.typing import NDArray

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
RETRIEVAL = 1  # of espeak-ng: samples are returned, and not played
RATE, PITCH = 1, 3  # of espeak-ng: numbers of parameters
UTF8 = 1
NOISE = 0.02  # the deviation, where 1 is full scale


class Synthesizer:
    """espeak-ng, a synthesizer by formants."""

    def __init__(self):
        loader = importlib.import_module("espeakng_loader")
        self._library, data = ctypes.CDLL(loader.get_library_path()), Path(loader.get_data_path())
        self.rate = self._library.espeak_Initialize(RETRIEVAL, 0, str(data).encode(), 0)
        self._parts = list[NDArray[np.int16]]()
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._keep = kind(self._add)
        self._library.espeak_SetSynthCallback(self._keep)
        self.voices = [
            voice
            for voice in sorted(each.name for each in (data / "voices" / "!v").iterdir())
            if all(self._choose(accent, voice) for accent in ACCENTS)
        ]

    def _choose(self, accent: str, voice: str) -> bool:
        return self._library.espeak_SetVoiceByName(f"{accent}+{voice}".encode()) == 0

    def _add(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: int) -> int:
        if samples and count:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, accent: str, voice: str, speed: int, pitch: int) -> NDArray[np.float64]:
        """Returns samples. speed: in words a minute. pitch: from 0 to 99."""
        self._parts.clear()
        if not self._choose(accent, voice):
            raise ValueError(f"there is no voice {voice!r} of the accent {accent!r}")
        self._library.espeak_SetParameter(RATE, speed, 0)
        self._library.espeak_SetParameter(PITCH, pitch, 0)
        written = text.encode() + b"\0"
        self._library.espeak_Synth(written, len(written), 0, 0, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._parts) / (1 << 15)


@cache
def synthesizer() -> Synthesizer:
    return Synthesizer()  # of which a process can have one


def texts(draw: np.random.Generator, most: int) -> Iterator[str]:
    """Yields digits, from 1 to `most` of them."""
    while True:
        yield " ".join(draw.choice(DIGITS, draw.integers(1, most + 1)))


def record(path: Path, count: int, most: int, test: bool) -> None:
    """Writes a table of recordings, and these beside it: of at most `most` digits each. test: whether in the other half of the voices."""
    draw, speaker = np.random.default_rng(int(test)), synthesizer()
    voices, rows = speaker.voices[int(test) :: 2], []
    for k, text in zip(range(count), texts(draw, most), strict=False):
        voice, accent = str(draw.choice(voices)), str(draw.choice(ACCENTS))
        samples = speaker.say(text, accent, voice, int(draw.integers(120, 240)), int(draw.integers(20, 80)))
        samples = samples * draw.uniform(0.1, 0.9) + NOISE * draw.normal(size=len(samples))
        file = path.with_name(f"{path.stem}_{k}.flac")
        soundfile.write(file, samples.clip(-1, 1), speaker.rate)
        rows.append({"file": file.name, "said": text, "voice": voice})
    pl.DataFrame(rows).write_csv(path)
