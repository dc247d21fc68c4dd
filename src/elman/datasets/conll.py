"""Sentences whose words have tags: CoNLL-U, columns of words and tags, and JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from elman.datasets.reading import BadRows, json_lines, text_lines
from elman.datasets.tables import JSON_LINES, form

UNIVERSAL = {"upos": 3, "xpos": 4, "deprel": 7}  # columns of CoNLL-U that hold tags; words are in column 1

COMMENT = re.compile(r"#\s*\w+ = ")  # in columns of words and tags, where a word may be "#"
DOCUMENT = "-DOCSTART-"  # what CoNLL-2003 has in place of a word where a document begins


@dataclass
class Sentence:
    words: list[str]
    tags: list[str]  # one for each word, or none at all
    # The lines of the file, and which of them stands for which word: so that a prediction can be written in their place.
    lines: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    number: int = 0  # of the sentence in its file, from 1
    widths: set[int] = field(default_factory=set)  # how many columns its words have; empty in CoNLL-U and JSON lines


def sentences(
    path: Path, tag: str = "upos", tagged: bool = True, bad: BadRows | None = None, width: int = 0
) -> Iterator[Sentence]:
    """Yields the sentences of a file, one after the other, so that the file may be larger than memory.

    tag: the column of a CoNLL-U file: upos, xpos or deprel. Other files have the word in their first column and the tag
    in their last one, between them what there may be, and an empty line after each sentence. A line with -DOCSTART- in
    place of a word is left out, as in CoNLL-2003. JSON lines have `words` and `tags`.
    tagged: whether every word must have a tag.
    width: the number of columns that words and tags must have, if any: a line may lack the last one, or all but the word.
    Raises InputError with the file, the line and the value where something is wrong, unless bad rows are skipped.
    """
    bad = bad or BadRows()
    kind, before = form(path), bad.count
    if kind in JSON_LINES:
        found = _json_lines(path, tagged, bad)
    else:
        found = _columns(path, UNIVERSAL[tag] if kind == ".conllu" else -1, tagged, bad, width)
    for done, sentence in enumerate(found, 1):
        sentence.number = done + bad.count - before
        yield sentence


def _columns(path: Path, column: int, tagged: bool, bad: BadRows, width: int) -> Iterator[Sentence]:
    sentence, whole, before = Sentence([], []), True, list[str]()  # lines without words, which the next sentence takes
    for number, line in text_lines(path):
        if not line.strip():
            if whole and sentence.words:
                yield sentence
                before = []
            elif whole and sentence.lines:
                before = [*sentence.lines, ""]
            sentence, whole = Sentence([], [], list(before)), True
            continue
        sentence.lines.append(line)
        problem = _add(sentence, line, column, tagged, width)
        if problem and whole:
            bad.found(f"{path}, line {number}: {problem}")
            whole = False  # a sentence is left out as a whole
    if whole and sentence.words:
        yield sentence


def _add(sentence: Sentence, line: str, column: int, tagged: bool, width: int) -> str | None:
    """Adds a line to a sentence. Returns what is wrong with it, or None."""
    universal = column > 0
    if line.startswith("#") and (universal or COMMENT.match(line)):
        return None
    values = line.split("\t") if universal or "\t" in line else line.split()
    if universal:
        if len(values) != 10:
            return f"a word of CoNLL-U has 10 values separated by tabs, but {line!r} has {len(values)}"
        if "-" in values[0] or "." in values[0]:  # a range of words, or a word that is not there
            return None
        word, label = values[1], values[column]
    else:
        word, label = values[0], values[-1] if len(values) > 1 else ""
        if word == DOCUMENT:
            return None
        if tagged and len(values) < 2:
            return f"{line!r} should be a word and its tag, separated by a tab or spaces"
        if width and len(values) not in (1, width - 1, width):
            return f"{line!r} has {len(values)} columns, but the training had {width}, or {width - 1} without the tag"
        sentence.widths.add(len(values))
    if not word:
        return f"{line!r} has no word"
    if tagged and label in ("", "_") and universal:
        return f"the word {word!r} has no tag"
    sentence.places.append(len(sentence.lines) - 1)
    sentence.words.append(word)
    if tagged:
        sentence.tags.append(label)
    return None


def _json_lines(path: Path, tagged: bool, bad: BadRows) -> Iterator[Sentence]:
    for number, line, row in json_lines(path, bad):
        where = f"{path}, line {number}"
        words, tags = row.get("words"), row.get("tags", [])
        if not _strings(words) or not words:
            bad.found(f"{where}: `words` should be a list of strings but is {str(words)[:60]!r}")
        elif tagged and (not _strings(tags) or len(tags) != len(words)):
            bad.found(f"{where}: `tags` should be a list of {len(words)} strings but is {str(tags)[:60]!r}")
        else:
            yield Sentence(words, tags if tagged else [], [line], [])


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) and each for each in value)


def with_tags(sentence: Sentence, tags: list[str], tag: str, kind: str, width: int = 0) -> str:
    """Returns the sentence as it stood in its file, with these tags: those it had are replaced.

    width: how many columns words and tags have; if it is not known, the last of several has the tag.
    """
    if kind in JSON_LINES:
        return json.dumps(json.loads(sentence.lines[0]) | {"tags": tags}, ensure_ascii=False) + "\n"
    lines = list(sentence.lines)
    for place, label in zip(sentence.places, tags, strict=True):
        between = "\t" if "\t" in lines[place] or " " not in lines[place] else " "
        values = lines[place].split("\t") if between == "\t" else lines[place].split()
        has_tag = len(values) > 1 and width in (0, len(values))
        at = UNIVERSAL[tag] if kind == ".conllu" else len(values) - has_tag
        lines[place] = between.join([*values[:at], label, *values[at + 1 :]])
    return "\n".join(lines) + "\n\n"
