"""Data that every machine has, so that each task can be tried without a file."""

from __future__ import annotations

import ast
import io
import keyword
import math
import tokenize
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.datasets.conll import Sentence

TAGGED = "lines of Python's standard library"
LABELLED = "outlines of digits in matplotlib's fonts"
SERIES = "a Mackey-Glass series"
DRAWN = "outlines of numbers in matplotlib's fonts"
MARKED = "marked numbers to add"
DATES = "dates in words and figures"
EVENTS = "events in a noisy signal"
LINES = 4000  # of code
LONGEST = 60  # tokens of a line
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
COPIES = 8  # of a digit in each font
STEP = 0.08  # how far the pen moves at a time, in heights of a digit


def tagged_code() -> list[Sentence]:
    """Returns lines of Python's standard library: the words are tokens, and the tag of a name is what it stands for.

    The same name is a variable here, an attribute or a parameter there, so that a tag cannot be read off the word.
    """
    sentences: list[Sentence] = []
    seen: set[tuple[str, ...]] = set()
    for path in sorted(Path(ast.__file__).parent.glob("*.py")):
        for sentence in _lines_of(path):
            if tuple(sentence.words) not in seen:
                seen.add(tuple(sentence.words))
                sentences.append(sentence)
        if len(sentences) >= LINES:
            break
    return sentences[:LINES]


def _lines_of(path: Path) -> Iterator[Sentence]:
    source = path.read_text(encoding="utf-8")
    roles = _roles(ast.parse(source), source)
    sentence = Sentence([], [])
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if 3 <= len(sentence.words) <= LONGEST:
                yield sentence
            sentence = Sentence([], [])
        elif token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
            kind = tokenize.tok_name[token.type].lower()
            if token.type == tokenize.NAME:
                kind = "keyword" if keyword.iskeyword(token.string) else roles.get(token.start, "other")
            short = token.string if len(token.string) <= 30 else token.string[:14] + ".." + token.string[-14:]
            sentence.words.append("".join(short.split()) or "''")
            sentence.tags.append(kind)


def _roles(tree: ast.AST, source: str) -> dict[tuple[int, int], str]:
    """Returns what the name at each place (line, column) stands for."""
    lines = source.splitlines()
    found: dict[tuple[int, int], str] = {}

    def name_after(line: int, column: int, name: str, role: str) -> None:
        at = lines[line - 1].find(name, column) if line <= len(lines) else -1
        if at >= 0:
            found[line, at] = role

    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name_after(node.lineno, node.col_offset + 4, node.name, "definition")
        elif isinstance(node, ast.ClassDef):
            name_after(node.lineno, node.col_offset + 6, node.name, "class")
        elif isinstance(node, ast.arg):
            found[node.lineno, node.col_offset] = "parameter"
        elif isinstance(node, ast.keyword) and node.arg:
            found[node.lineno, node.col_offset] = "argument"
        elif isinstance(node, ast.alias):
            found[node.lineno, node.col_offset] = "module"
    for node in ast.walk(tree):
        at = node.func if isinstance(node, ast.Call) else node
        called = at is not node
        if isinstance(at, ast.Attribute) and at.end_col_offset is not None and at.end_lineno is not None:
            place = at.end_lineno, at.end_col_offset - len(at.attr)
            found[place] = "method" if called else found.get(place, "attribute")
        elif isinstance(at, ast.Name):
            place = at.lineno, at.col_offset
            found[place] = "function" if called else found.get(place, "variable")
    return found


def mackey_glass(length: int = 5000) -> NDArray[np.float64]:
    """Returns a chaotic series (length,), one value a unit of time, after a start that is left out.

        dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t)

    Source: M. C. Mackey & L. Glass, Oscillation and chaos in physiological control systems, Science 197 (1977).
    """
    substeps = 10
    delay = 17 * substeps
    x = [1.2] * (delay + 1)
    for _ in range((length + 200) * substeps):
        late = x[-1 - delay]
        x.append(x[-1] + (0.2 * late / (1 + late**10) - 0.1 * x[-1]) / substeps)
    return np.array(x[delay + 1 + 200 * substeps :: substeps])[:length]


def marked_numbers(count: int = 3000) -> Iterator[tuple[NDArray[np.float64], list[float]]]:
    """Yields sequences of 30 to 60 random numbers, two of which are marked, and the sum of the marked ones up to each step.

    Yields (steps (T, 2), sums (T,)). A step has a number between 0 and 1, and 1 where it is marked. One mark is in the first
    half. A network has to keep the first number until it has read the second one: this is the adding problem.
    Source: S. Hochreiter & J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997), experiment 4.
    """
    random = np.random.default_rng(0)
    for _ in range(count):
        length = int(random.integers(30, 61))
        steps = np.zeros((length, 2))
        steps[:, 0] = random.random(length).round(4)
        places = random.integers(0, length // 2), random.integers(length // 2, length)
        steps[places, 1] = 1.0
        yield steps, (steps[:, 0] * steps[:, 1]).cumsum().round(4).tolist()


def events(count: int = 2000) -> Iterator[tuple[NDArray[np.float64], list[list[str]]]]:
    """Yields noisy signals of 60 to 120 steps, in which events of five kinds happen, and which are going on at each step.

    Yields (steps (T, 1), events of each step). The kinds are a slow bump, a drop, a hum, a ringing that fades and a spike. One
    that is rarer happens in a twelfth of the signals, the most frequent one in half of them. They may overlap.
    """
    random = np.random.default_rng(3)
    for _ in range(count):
        length = int(random.integers(60, 121))
        values, going = random.normal(0, 0.35, length), [list[str]() for _ in range(length)]
        for (name, shape), share in zip(SHAPES.items(), (1 / 2, 1 / 3, 1 / 3, 1 / 5, 1 / 12), strict=True):
            long = 3 if name == "spike" else int(random.integers(15, 31))
            begin, happens = int(random.integers(length - long)), random.random() < share
            if happens:
                values[begin : begin + long] += random.uniform(0.8, 1.4) * shape(np.linspace(0, 1, long))
                for step in range(begin, begin + long):
                    going[step].append(name)
        yield values[:, None].round(4), going


SHAPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "bump": lambda t: 1.5 * np.sin(math.pi * t) ** 2,
    "drop": lambda t: -1.2 * np.ones_like(t),
    "hum": lambda t: np.sin(10 * math.pi * t),
    "ringing": lambda t: 2 * np.exp(-3 * t) * np.cos(16 * math.pi * t),
    "spike": lambda t: np.array([1.0, 3.0, 1.0]),
}


def dates(count: int = 3000) -> Iterator[tuple[str, str]]:
    """Yields days of the years 1900 to 2099 as people write them, and as ISO 8601 has them: ("May 4th, 1977", "1977-05-04")."""
    random = np.random.default_rng(2)
    first = date(1900, 1, 1).toordinal()
    for _ in range(count):
        day = date.fromordinal(first + int(random.integers(date(2100, 1, 1).toordinal() - first)))
        month, weekday = MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
        th = "th" if 10 < day.day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
        forms = (
            f"{day.day} {month} {day.year}",
            f"{month} {day.day}{th}, {day.year}",
            f"the {day.day}{th} of {month} {day.year}",
            f"{weekday}, {month} {day.day}, {day.year}",
            f"{weekday[:3]}, {day.day:02} {month[:3]} {day.year}",
            f"{month[:3]} {day.day} '{day.year % 100:02}"
            if 1950 <= day.year < 2050
            else f"{month[:3]} {day.day} {day.year}",
            f"{day.day}.{day.month}.{day.year}",
            f"{day.month}/{day.day}/{day.year}",
            f"{day.year}{day.month:02}{day.day:02}",
        )
        yield forms[random.integers(len(forms))], day.isoformat()


def digits() -> Iterator[tuple[NDArray[np.float32], str, str]]:
    """Yields the outlines of the ten digits in the fonts that come with matplotlib, each bent a little in many ways.

    Yields (steps (T, 3), digit, font). A step is how far the pen moves, in x and y, and whether it is lifted before.
    """
    from matplotlib import get_data_path
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    random = np.random.default_rng(0)
    for font in sorted((Path(get_data_path()) / "fonts" / "ttf").glob("*.ttf")):
        if not font.name.startswith(("DejaVu", "STIXGeneral", "cmr", "cmb", "cmss", "cmtt")) or "Display" in font.name:
            continue
        for digit in "0123456789":
            outline = TextPath((0, 0), digit, size=1, prop=FontProperties(fname=str(font)))
            for _ in range(COPIES):
                turn, slant = random.normal(0, 0.12), random.normal(0, 0.15)
                width, height = random.normal(1, 0.12, 2)
                bend = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
                bend = bend @ np.array([[width, slant], [0, height]])
                yield _steps([part @ bend.T for part in outline.to_polygons()], random), digit, font.stem


def numbers() -> Iterator[tuple[list[tuple[NDArray[np.float32], str]], str]]:
    """Yields the outlines of numbers of 4 to 8 digits, in one font each: those of `digits`, one after the other.

    Yields ((steps (T, 3), digit) of each, font).
    """
    random = np.random.default_rng(1)
    for font, group in groupby(digits(), key=lambda each: each[2]):
        drawn = list(group)
        rest = np.concatenate([random.permutation(len(drawn)) for _ in range(4)])
        while len(rest) >= 4:
            own, rest = np.split(rest, [min(len(rest), random.integers(4, 9))])
            yield [drawn[k][:2] for k in own], font


def unseen(fonts: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Returns which of these are drawn in a font for validation, (N,): about this share of all fonts."""
    return np.isin(fonts, sorted(set(fonts))[:: max(2, round(1 / share))])


def _steps(strokes: list[NDArray[Any]], random: np.random.Generator) -> NDArray[np.float32]:
    rows, last = [], np.zeros(2)
    for stroke in strokes:
        gone = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(stroke, axis=0).T))])
        at = np.linspace(0, gone[-1], max(3, round(gone[-1] / STEP)))
        places = np.stack([np.interp(at, gone, stroke[:, axis]) for axis in (0, 1)], 1)
        places = places + random.normal(0, 0.01, places.shape)
        for k, place in enumerate(places):
            rows.append([*(place - last), float(k == 0)])
            last = place
    return np.array(rows, dtype=np.float32)
