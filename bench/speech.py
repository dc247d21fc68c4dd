"""Recordings of a speech synthesizer: digits, alone, in rows and in conversations, in many voices, which `pip install espeakng-loader` brings.

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
PAUSE = 1.0  # seconds at most between digits
QUIET = 0.01  # of the loudest sample, below which a digit has not begun, or has ended


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
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # some voices breathe, and always alike
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


def utterance(draw: np.random.Generator, text: str, voice: str) -> NDArray[np.float64]:
    """Returns samples of a text, said with an accent, a speed, a pitch and a loudness that are drawn."""
    accent, speed, pitch = str(draw.choice(ACCENTS)), int(draw.integers(120, 240)), int(draw.integers(20, 80))
    return synthesizer().say(text, accent, voice, speed, pitch) * draw.uniform(0.1, 0.9)


def record(path: Path, count: int, most: int, test: bool) -> None:
    """Writes a table of recordings, and these beside it: of at most `most` digits each. test: whether in the other half of the voices."""
    draw, speaker = np.random.default_rng(int(test)), synthesizer()
    voices, rows = speaker.voices[int(test) :: 2], []
    for k, text in zip(range(count), texts(draw, most), strict=False):
        voice = str(draw.choice(voices))
        samples = utterance(draw, text, voice)
        samples += NOISE * draw.normal(size=len(samples))
        file = path.with_name(f"{path.stem}_{k}.flac")
        soundfile.write(file, samples.clip(-1, 1), speaker.rate)
        rows.append({"file": file.name, "said": text, "voice": voice})
    pl.DataFrame(rows).write_csv(path)


def converse(path: Path, count: int, test: bool) -> None:
    """Writes a table of when each digit is said, and the recordings beside it: several voices in turn, with pauses. test: as in `record`."""
    draw, speaker = np.random.default_rng(2 + int(test)), synthesizer()
    voices, rows = speaker.voices[int(test) :: 2], []
    for k in range(count):
        file, at = path.with_name(f"{path.stem}_{k}.flac"), draw.uniform(0, PAUSE)  # at: in seconds
        samples = [np.zeros(round(at * speaker.rate))]
        for _ in range(draw.integers(3, 9)):
            text = str(draw.choice(DIGITS))
            said = utterance(draw, text, str(draw.choice(voices)))
            loud = np.flatnonzero(np.abs(said) > QUIET * np.abs(said).max())
            said = np.append(said[loud[0] : loud[-1]], np.zeros(round(draw.uniform(0, PAUSE) * speaker.rate)))
            end = at + (loud[-1] - loud[0]) / speaker.rate
            rows.append({"file": file.name, "begin": round(at, 4), "end": round(end, 4), "said": text})
            at += len(said) / speaker.rate
            samples.append(said)
        heard = np.concatenate(samples)
        soundfile.write(file, (heard + NOISE * draw.normal(size=len(heard))).clip(-1, 1), speaker.rate)
    pl.DataFrame(rows).write_csv(path)
