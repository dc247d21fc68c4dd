"""Readers: what they yield, and what they say of rows that make no sense."""

from __future__ import annotations

import calendar
import contextlib
import gzip
import itertools
import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
import zstandard

from elman.datasets import conll, reading, sequences, series, tables
from elman.datasets.reading import BadRows, json_lines, text_lines
from elman.datasets.text import read as read_text
from elman.datasets.times import Pace, written
from elman.errors import InputError

NONE = sequences.Columns()
CSV = "id,kind,x,y\na,up,1,2\na,up,2,3.5\nb,down,3,-4e2\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Lines and packed files


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_lines_of_packed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, pack: Callable[[bytes], bytes]
):
    monkeypatch.setattr(reading, "BLOCK", block)
    path = write(tmp_path / "a.txt", pack("one\r\n\ntwo ünd\nlast".encode()))
    assert list(text_lines(path)) == [(1, "one"), (2, ""), (3, "two ünd"), (4, "last")]


MARK = "\ufeff"


@pytest.mark.parametrize("block", [1, 2, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_byte_order_mark_is_none_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, pack: Callable[[bytes], bytes]
):
    monkeypatch.setattr(reading, "BLOCK", block)
    path = write(tmp_path / "a.txt", pack(f"{MARK}the\tX\n{MARK}\tY\n".encode()))
    assert list(text_lines(path)) == [(1, "the\tX"), (2, f"{MARK}\tY")]  # only the first one is a mark
    path = write(tmp_path / "a.txt", MARK.encode() + b"ab\n\xff\n")
    with pytest.raises(InputError, match="byte 7, on line 2, is 0xff"):
        list(text_lines(path))
    assert read_text(write(tmp_path / "t.txt", f"{MARK}ab"), "characters", 0.5).vocabulary.size == 2
    (sentence,) = conll.sentences(write(tmp_path / "a.jsonl", MARK + '{"words": ["a"], "tags": ["X"]}\n'))
    assert sentence.words == ["a"]
    ((content, label),) = contents(sequences.sequences(write(tmp_path / "a.ts", MARK + "@data\n1,2:a\n"), NONE))
    assert (content, label) == ([[1], [2]], "a")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_a_table_with_a_byte_order_mark(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]):
    content = "x,y\n1,2\n" if name == "t.csv" else '{"x": 1, "y": 2}\n'
    end = "" if pack is bytes else ".gz" if pack is gzip.compress else ".zst"
    (piece,) = tables.pieces(write(tmp_path / f"{name}{end}", pack((MARK + content).encode())), ["x", "y"])
    assert piece.select(pl.col("x", "y").cast(pl.Int64)).rows() == [(1, 2)]


@pytest.mark.parametrize(("start", "kind"), [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "Zstandard")])
def test_a_damaged_packed_file(tmp_path: Path, start: bytes, kind: str):
    path = write(tmp_path / "a", start + b"nothing of the kind")
    with pytest.raises(InputError, match=re.escape(f"{path} is a damaged {kind} file")):
        list(text_lines(path))


HALVES = ["a", r"\n", r"\\", r"\ud83d", r"\uDE00", r"\u007d"]  # in JSON; r"\\" before "u" is no escape


def test_half_a_character_is_a_bad_row(tmp_path: Path):
    texts = [f'"{"".join(parts)}ude00"' for parts in itertools.product(HALVES, repeat=4)]
    path, bad = write(tmp_path / "a.jsonl", "".join(f'{{"a": {text}}}\n' for text in texts)), BadRows(skip=True)
    whole = [text for text in map(json.loads, texts) if text.encode(errors="ignore").decode() == text]
    assert 0 < len(whole) < len(texts)
    assert [row["a"] for _, _, row in json_lines(path, bad)] == whole
    assert bad.count == len(texts) - len(whole)
    with pytest.raises(InputError, match=r"a.jsonl, line 1: \\ud800 is half a character, without its other half; corr"):
        list(json_lines(write(path, r'{"\ud800": 1}'), BadRows()))


def test_json_that_is_too_deep_is_a_bad_row(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", '{"a": ' + "[" * 100_000 + "\n{}\n")
    assert [number for number, _, _ in json_lines(path, BadRows(skip=True))] == [2]


# Tables


@pytest.mark.parametrize(("end", "kind"), [("gz", "gzip"), ("zst", "Zstandard")])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_packed_file_that_was_cut_short(tmp_path: Path, name: str, end: str, kind: str):
    random = np.random.default_rng(0)
    rows = pl.DataFrame({"x": random.normal(size=20_000), "y": random.normal(size=20_000)})
    content = (rows.write_csv() if name == "t.csv" else rows.write_ndjson()).encode()
    pack = gzip.compress if end == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    packed, whole = pack(content), len(content.splitlines())
    path = write(tmp_path / f"{name}.{end}", packed + pack(content))  # two parts, as `cat` joins them
    assert sum(1 for _ in text_lines(path)) == 2 * whole
    assert all(reading.byte_blocks(path))
    for readable in (12, len(packed) // 2, len(packed) - 1):
        write(path, packed[:readable])
        for read in (tables.pieces, text_lines):
            with pytest.raises(InputError, match=f"^{re.escape(str(path))} is a damaged {kind} file: it was cut"):
                list(read(path))
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    write(path, bytes(damaged))
    for read in (tables.pieces, text_lines):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} is a damaged {kind} file: .*; copy or"):
            list(read(path))


def test_the_same_table_in_every_form(tmp_path: Path):
    frame = pl.read_csv(CSV.encode())
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ndjson(tmp_path / "t.jsonl")
    write(tmp_path / "t.csv", CSV)
    write(tmp_path / "t.tsv", CSV.replace(",", "\t"))
    write(tmp_path / "t.csv.gz", gzip.compress(CSV.encode()))
    write(tmp_path / "t.csv.zst", zstandard.ZstdCompressor().compress(CSV.encode()))
    for name in ("t.csv", "t.tsv", "t.csv.gz", "t.csv.zst", "t.parquet", "t.jsonl"):
        (piece,) = tables.pieces(tmp_path / name)
        piece = tables.numbers(piece, ["x", "y"], tmp_path / name, BadRows())
        assert piece["id"].to_list() == ["a", "a", "b"], name
        assert piece.select("x", "y").rows() == [(1.0, 2.0), (2.0, 3.5), (3.0, -400.0)], name
        first = 2 if "csv" in name or "tsv" in name else 1
        assert piece[tables.LINE].to_list() == [first, first + 1, first + 2], name


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_column_may_be_called_line(tmp_path: Path, name: str):
    path = tmp_path / name
    frame = pl.DataFrame({"line": [7.0, 9.0], "id": ["a", "a"], "label": ["up", "up"], "x": [3.0, 4.0]})
    {".csv": frame.write_csv, ".jsonl": frame.write_ndjson, ".parquet": frame.write_parquet}[path.suffix](path)
    if name != "t.jsonl":
        found = sequences.sequences(path, sequences.Columns(sequence="id"))
        assert contents(found) == [([[7, 3], [9, 4]], "up")]
    (one,), targets = series.read(path, series.Columns(time="line", targets=("x",)), BadRows())
    assert (one.times.tolist(), one.targets.tolist(), targets) == ([7, 9], [[3], [4]], ("x",))
    (one,), targets = series.read(path, series.Columns(known=("line",), targets=("x",), group="id"), BadRows())
    assert (one.known.tolist(), targets) == ([[7], [9]], ("x",))


def test_pieces_of_a_table_keep_order_and_lines(tmp_path: Path):
    path = write(tmp_path / "t.csv", "x\n" + "".join(f"{k}\n" for k in range(1000)))
    found = list(tables.pieces(path, rows=64))
    assert len(found) > 4
    assert [int(x) for piece in found for x in piece["x"]] == list(range(1000))
    assert [line for piece in found for line in piece[tables.LINE]] == list(range(2, 1002))


def test_lines_are_counted_over_line_ends_in_values_and_empty_lines(tmp_path: Path):
    path = write(tmp_path / "t.csv", 'text,x\n"two\nlines",1\n\n"a ""b"", c",2\nlast,bad\n')
    (piece,) = tables.pieces(path)
    with pytest.raises(
        InputError, match=re.escape(f"{path}, line 6: column 'x' should be a number but is 'bad'; correct it")
    ):
        tables.numbers(piece, ["x"], path, BadRows())


def test_bad_rows_are_left_out_and_counted(tmp_path: Path):
    path = write(tmp_path / "t.csv", "x,y\n1,2\nnan,3\n4,\n5,inf\n6,7\n")
    (piece,) = tables.pieces(path)
    bad = BadRows(skip=True)
    assert tables.numbers(piece, ["x", "y"], path, bad).select("x", "y").rows() == [(1.0, 2.0), (6.0, 7.0)]
    assert bad.count == 3
    assert bad.first == f"{path}, line 3: column 'x' should be a number but is 'nan'"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("mark", ["", MARK])
def test_json_lines_that_are_no_rows_are_left_out_and_counted(tmp_path: Path, packed: bool, mark: str):
    """Lines keep their numbers, also where empty ones lie between them; the file and its folder stay as they are."""
    rows = [f'{{"x": {k}, "y": "a{k}"}}' for k in range(1, 9)]
    rows[1], rows[3], rows[5], rows[7] = "", "[1, 2]", "null", rows[7][:9]
    content = (mark + "\r\n".join(rows)).encode()
    path = write(tmp_path / ("t.jsonl.gz" if packed else "t.jsonl"), gzip.compress(content) if packed else content)
    bad, before = BadRows(skip=True), path.read_bytes()
    found = pl.concat(tables.pieces(path, rows=2, bad=bad))
    assert found["x"].to_list() == found[tables.LINE].to_list() == [1, 3, 5, 7]
    assert found["y"].to_list() == ["a1", "a3", "a5", "a7"]
    assert (bad.count, bad.first) == (3, f"{path}, line 4: a row should be an object with values but is '[1, 2]'")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(("content", "lines"), [("{}\n\n\n{}\n", [1, 4]), ("\n{}\n{}", [2, 3]), ("{}\n{}\n\n", [1, 2])])
def test_empty_lines_between_json_lines_are_counted(tmp_path: Path, content: str, lines: list[int]):
    path = write(tmp_path / "t.jsonl", content.replace("{}", '{"x": 1}'))
    assert pl.concat(tables.pieces(path))[tables.LINE].to_list() == lines


@pytest.mark.parametrize("content", ["1\n2\n", "{}\n", "x"])
def test_json_lines_of_no_rows(tmp_path: Path, content: str):
    path = write(tmp_path / "t.jsonl", content)
    with pytest.raises(InputError, match=r"t\.jsonl has no row that can be used, the first: .*line 1: "):
        list(tables.pieces(path, bad=BadRows(skip=True)))


def test_a_copy_without_bad_lines_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "t.jsonl", '{"x": 1}\n\n{"x": 2}\n')
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"cannot keep the data in .*none: .*; set TMPDIR to a directory with enough"):
        list(tables.pieces(path))


TABLES = {
    "semicolons": ("t.csv", "z;y\n1;2\n", "has only the column 'z;y': its values seem to be separated by semicolons; separate them by commas"),
    "semicolons and decimal commas": ("t.csv", "z;y\n1,5;2\n", "its values seem to be separated by semicolons"),
    "tabs": ("t.csv", "z\ty\n1\t2\n", "its values seem to be separated by tabs; rename it to end in .tsv"),
    "commas": ("t.tsv", "z,y\n1,2\n", "its values seem to be separated by commas; rename it to end in .csv"),
    "another sign in a name alone": ("t.csv", "y; m\n1\n", "has no column 'z'; its columns are 'y; m'"),
    "no such column": ("t.csv", CSV, "has no column 'z'; its columns are 'id', 'kind', 'x', 'y'"),
    "too many values": ("t.csv", "z,y\n1,2\n3,4,5\n", "line 3 has 3 values, but the header names 2 columns"),
    "empty": ("t.csv", "", "is empty"),
    "header only": ("t.csv", "z\n", "has no rows"),
    "not UTF-8": ("t.csv", b"z\n\xff\xfe\n", "is not UTF-8: byte 3, on line 2, is 0xff"),
    "no parquet": ("t.parquet", "z\n1\n", "cannot be read as parquet"),
    "no JSON": ("t.jsonl", '{"z": 1}\n\n{z: 1}\n', "line 3: no JSON at character 2: Expecting property name enclosed in double quotes"),
    "JSON that is cut short": ("t.jsonl", '{"z": 1}\n{"z": ', "line 2: no JSON at character 7: Expecting value"),
    "JSON without names": ("t.jsonl", '{"z": 1}\n[1, 2]\n', "line 2: a row should be an object with values but is '[1, 2]'"),
    "another ending": ("t.xlsx", "z\n1\n", "does not end in .csv, .tsv, .jsonl, .ndjson, .parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_cannot_be_read(tmp_path: Path, case: str):
    name, content, message = TABLES[case]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        list(tables.pieces(path, ["z"]))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there(tmp_path: Path):
    for path, message in ((tmp_path / "no.csv", "No such file"), (tmp_path, "is a directory")):
        with pytest.raises(InputError, match=message):
            list(tables.pieces(path))


KINDS = {  # of values, and whether they may be numbers, texts and times
    "words": (pl.Series(["1", "2"]), True, True, True),
    "categories": (pl.Series(["1", "2"], dtype=pl.Categorical), True, True, True),
    "one of a few": (pl.Series(["1", "2"], dtype=pl.Enum(["1", "2"])), True, True, True),
    "truths": (pl.Series([False, True]), True, True, True),
    "dates": (pl.Series([date(2026, 1, 1), date(2026, 1, 2)]), False, True, True),
    "times": (pl.Series([datetime(2026, 1, 1), datetime(2026, 1, 2)]), False, True, True),
    "durations": (pl.Series([timedelta(hours=1), timedelta(hours=2)]), True, False, True),
    "bytes": (pl.Series([b"1", b"2"]), False, True, False),
    "lists": (pl.Series([[1], [2]]), False, False, False),
    "arrays": (pl.Series([[1], [2]], dtype=pl.Array(pl.Int64, 1)), False, False, False),
    "objects": (pl.Series([{"a": 1}, {"a": 2}]), False, False, False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_cannot_be_what_they_should(tmp_path: Path, kind: str):
    values, *fits = KINDS[kind]
    path = tmp_path / "a.parquet"
    pl.DataFrame({"v": values, "x": [1, 2], "y": [3, 4]}).write_parquet(path)
    ways: dict[Callable[[], object], tuple[bool, str]] = {
        lambda: series.read(path, series.Columns(("v", "x")), BadRows()): (fits[0], "numbers"),
        lambda: series.read(path, series.Columns(("x",), group="v"), BadRows()): (fits[1], "texts"),
        lambda: series.read(path, series.Columns(("x",), time="v"), BadRows()): (fits[2], "numbers"),
        lambda: list(sequences.sequences(path, sequences.Columns("x", "y", channels=("v",)))): (fits[0], "numbers"),
        lambda: list(sequences.sequences(path, sequences.Columns("v", "y", channels=("x",)))): (fits[1], "texts"),
        lambda: list(sequences.sequences(path, sequences.Columns("x", text="v"))): (fits[1], "texts"),
    }
    for read, (fit, wanted) in ways.items():
        message = f"a.parquet: column 'v' should have {wanted}, but has the type {values.dtype}; convert it"
        with contextlib.nullcontext() if fit else pytest.raises(InputError, match=re.escape(message)):
            read()


# Sentences

CONLLU = """# text = It's here
1-2\tIt's\t_\t_\t_\t_\t_\t_\t_\t_
1\tIt\tit\tPRON\tPRP\t_\t0\troot\t_\t_
2\t's\tbe\tAUX\tVBZ\t_\t1\tcop\t_\t_
2.1\tleft\t_\tVERB\t_\t_\t_\t_\t_\t_
3\there\there\tADV\tRB\t_\t1\tadvmod\t_\t_

1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_

"""
COLUMNS = "EU NNP B-ORG\nrejects VBZ O\n# NN O\n\nPeter NNP B-PER\n"


def test_sentences_of_conllu(tmp_path: Path):
    path = write(tmp_path / "a.conllu", CONLLU)
    found = list(conll.sentences(path))
    assert [s.words for s in found] == [["It", "'s", "here"], ["Yes"]]
    assert [s.tags for s in found] == [["PRON", "AUX", "ADV"], ["INTJ"]]
    assert [s.tags for s in conll.sentences(path, "xpos")] == [["PRP", "VBZ", "RB"], ["UH"]]


def test_sentences_of_columns_and_json(tmp_path: Path):
    expected = [(["EU", "rejects", "#"], ["B-ORG", "O", "O"]), (["Peter"], ["B-PER"])]
    rows = "".join(json.dumps({"words": w, "tags": t}) + "\n\n" for w, t in expected)
    for path in (write(tmp_path / "a.txt", COLUMNS), write(tmp_path / "a.jsonl", rows)):
        assert [(s.words, s.tags) for s in conll.sentences(path)] == expected


@pytest.mark.parametrize(
    ("name", "content"), [("a.conllu", CONLLU), ("a.txt", COLUMNS + "\n"), ("a.txt", "a\tX\n\nb\tY\n\n")]
)
def test_their_own_tags_written_back_leave_a_file_as_it_was(tmp_path: Path, name: str, content: str):
    path = write(tmp_path / name, content)
    kind = tables.form(path)
    assert "".join(conll.with_tags(s, s.tags, "upos", kind) for s in conll.sentences(path)) == content
    others = "".join(conll.with_tags(s, ["?"] * len(s.words), "upos", kind) for s in conll.sentences(path))
    again = list(conll.sentences(write(tmp_path / f"again{kind}", others)))
    assert [s.words for s in again] == [s.words for s in conll.sentences(path)]
    assert {tag for s in again for tag in s.tags} == {"?"}


def test_words_without_tags_get_a_column(tmp_path: Path):
    path = write(tmp_path / "a.txt", "one\ntwo\n\nthree\n")
    found = list(conll.sentences(path, tagged=False))
    assert [s.tags for s in found] == [[], []]
    assert conll.with_tags(found[0], ["X", "Y"], "upos", ".txt") == "one\tX\ntwo\tY\n\n"


DOCUMENTS = "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n-DOCSTART-\nPeter NNP B-NP B-PER\n\n"


@pytest.mark.parametrize("tagged", [True, False])
def test_the_beginning_of_a_document_is_no_sentence(tmp_path: Path, tagged: bool):
    path = write(tmp_path / "a.txt", DOCUMENTS + "-DOCSTART- -X- -X- O\n\n# id = 1\n\nyes UH B-X O\n")
    found = list(conll.sentences(path, tagged=tagged))
    assert [s.words for s in found] == [["EU", "rejects"], ["Peter"], ["yes"]]
    assert [s.number for s in found] == [1, 2, 3]
    tags = [["B-ORG", "O"], ["B-PER"], ["O"]]
    assert "".join(conll.with_tags(s, t, "upos", ".txt") for s, t in zip(found, tags, strict=True)) == (
        path.read_text() + "\n"
    )


def test_the_beginning_of_a_document_stays_where_a_sentence_is_left_out(tmp_path: Path):
    path = write(tmp_path / "a.txt", "-DOCSTART- O\n\n\na X\nb\n\nc X\n\n-DOCSTART- O\n\n")
    bad = BadRows(skip=True)
    (found,) = conll.sentences(path, bad=bad)
    assert (bad.count, found.words, found.number) == (1, ["c"], 2)
    assert conll.with_tags(found, ["Y"], "upos", ".txt") == "-DOCSTART- O\n\n\nc Y\n\n"


SENTENCES = {
    "nine values": ("a.conllu", "1\ta\tb\tc\td\te\tf\tg\th\n", "line 1: a word of CoNLL-U has 10 values"),
    "no tag": ("a.conllu", "1\ta\ta\t_\t_\t_\t0\troot\t_\t_\n", "line 1: the word 'a' has no tag"),
    "no word": ("a.conllu", "1\t\ta\tX\t_\t_\t0\troot\t_\t_\n", "has no word"),
    "a lonely word": ("a.txt", "one X\ntwo\n", "line 2: 'two' should be a word and its tag"),
    "no JSON": ("a.jsonl", '{"words": ["a"], "tags": ["X"]}\n{\n', "line 2: "),
    "half a character": ("a.jsonl", '{"words": ["a\\ud800"], "tags": ["X"]}\n', r"line 1: \ud800 is half a character"),
    "no words": ("a.jsonl", '{"tags": ["X"]}\n', "line 1: `words` should be a list of strings but is 'None'"),
    "a tag too few": ("a.jsonl", '{"words": ["a", "b"], "tags": ["X"]}\n', "`tags` should be a list of 2 strings"),
    "tags that are numbers": ("a.jsonl", '{"words": ["a"], "tags": [1]}\n', "`tags` should be a list of 1 strings"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_sentences_that_make_no_sense(tmp_path: Path, case: str):
    name, content, message = SENTENCES[case]
    good = {"a.conllu": CONLLU, "a.txt": COLUMNS + "\n", "a.jsonl": '{"words": ["a"], "tags": ["X"]}\n'}[name]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        list(conll.sentences(path))
    assert str(caught.value).startswith(f"{path}, line ")
    assert "--skip-bad" in str(caught.value)
    bad = BadRows(skip=True)
    path = write(tmp_path / name, good + content + ("\n" if name != "a.jsonl" else "") + good)
    kept = list(conll.sentences(path, bad=bad))
    assert len(kept) == 2 * len(list(conll.sentences(write(tmp_path / f"good{tables.form(path)}", good)))) + (
        case == "no JSON"
    )
    assert bad.count == 1


# Labelled sequences

ARCHIVE = "#a comment\n@problemName p\n@dimensions 2\n@classLabel true 1 2\n@data\n1,2,3:4,5,6:1\n7,8:9,10:2\n"
LONG = "id,label,x,y\na,up,1,4\na,up,2,5\na,up,3,6\nb,down,7,9\nb,down,8,10\n"
VALUES = [[[1, 4], [2, 5], [3, 6]], [[7, 9], [8, 10]]]


def contents(found: Iterator[sequences.Labelled]) -> list[tuple[Any, str | None]]:
    return [(s.content if isinstance(s.content, str) else s.content.tolist(), s.label) for s in found]


def test_the_same_sequences_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pl.read_csv(LONG.encode()).write_parquet(tmp_path / "a.parquet")
    write(tmp_path / "a.ts", ARCHIVE)
    write(tmp_path / "a.csv", LONG)
    rows = [{"values": v, "label": k} for v, k in zip(VALUES, ("up", "down"), strict=True)]
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    columns = sequences.Columns(sequence="id")
    for name, labels in (
        ("a.ts", "12"),
        ("a.csv", ("up", "down")),
        ("a.parquet", ("up", "down")),
        ("a.jsonl", ("up", "down")),
    ):
        table = name.endswith((".csv", ".parquet"))
        found = contents(sequences.sequences(tmp_path / name, columns if table else sequences.Columns()))
        assert found == list(zip(VALUES, labels, strict=True)), name
    one = contents(sequences.sequences(tmp_path / "a.csv", columns._replace(channels=("y",))))
    assert one[1][0] == [[9], [10]]
    assert contents(sequences.sequences(tmp_path / "a.csv", columns, labelled=False))[0][0] == VALUES[0]


def test_a_sequence_may_lie_in_several_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = [f"{k // 7},{'ab'[k // 7 % 2]},{k}\n" for k in range(700)]
    path = write(tmp_path / "a.csv", "id,label,x\n" + "".join(lines))
    whole = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, *columns, **given: whole(path, *columns, rows=50, **given))
    found = contents(sequences.sequences(path, sequences.Columns(sequence="id")))
    assert found == [([[float(7 * k + j)] for j in range(7)], "ab"[k % 2]) for k in range(100)]


def test_texts_with_labels(tmp_path: Path):
    path = write(tmp_path / "a.csv", 'label,text\nup,"to the, sky"\ndown,under\n')
    columns = sequences.Columns(text="text")
    assert contents(sequences.sequences(path, columns)) == [("to the, sky", "up"), ("under", "down")]
    path = write(tmp_path / "a.jsonl", '{"text": "sky", "label": "up"}\n{"text": "low", "label": 3}\n')
    assert contents(sequences.sequences(path, columns)) == [("sky", "up"), ("low", "3")]


def test_blanks_around_a_label_are_none_of_it(tmp_path: Path):
    rows = [("x", " neg"), ("y", "neg"), ("z", "\tneg ")]
    texts = write(tmp_path / "a.csv", "text,label\n" + "".join(f"{t},{label}\n" for t, label in rows))
    spaced = write(tmp_path / "b.csv", "id,label,x\n" + "".join(f"{k // 2},{' ' * k}neg,{k}\n" for k in range(4)))
    lines = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": t, "label": label}) + "\n" for t, label in rows))
    archive = write(tmp_path / "a.ts", "@data\n1,2: neg\n3:neg \n")
    for path, columns, count in (
        (texts, sequences.Columns(text="text"), 3),
        (lines, sequences.Columns(text="text"), 3),
        (spaced, sequences.Columns(sequence="id"), 2),
        (archive, sequences.Columns(), 2),
    ):
        assert [each.label for each in sequences.sequences(path, columns)] == ["neg"] * count, path
    bare = write(tmp_path / "c.csv", "text,label\nx, \n")
    assert [each.label for each in sequences.sequences(bare, sequences.Columns(text="text"), labelled=False)] == [None]
    with pytest.raises(InputError, match=r"c.csv, line 2: column 'label' has no value"):
        list(sequences.sequences(bare, sequences.Columns(text="text")))


GAPS = [[None, 2.0, 5.0], [1.0, None, None], [None, None, 6.0], [3.0, 4.0, None]]
FILLED = [[1.0, 2.0, 5.0], [1.0, 2.0, 5.0], [1.0, 2.0, 6.0], [3.0, 4.0, 6.0]]


def written_with_gaps(path: Path, rows: list[list[float | None]]) -> Path:
    """The sequence, with a whole one before it and one after it."""
    whole: list[list[float | None]] = [[7.0, 8.0, 9.0]]
    every = {"a": whole, "b": rows, "c": whole}
    if path.suffix == ".jsonl":
        return write(path, "".join(json.dumps({"values": values, "label": "up"}) + "\n" for values in every.values()))
    if path.suffix == ".ts":
        lines = [
            ":".join(",".join("?" if v is None else str(v) for v in own) for own in zip(*values, strict=True)) + ":up"
            for values in every.values()
        ]
        return write(path, "@problemName x\n@data\n" + "\n".join(lines) + "\n")
    table = pl.DataFrame(
        [(name, "up", *row) for name, values in every.items() for row in values],
        schema={"id": pl.String, "label": pl.String, "x": pl.Float64, "y": pl.Float64, "z": pl.Float64},
        orient="row",
    )
    if path.suffix == ".parquet":
        table.write_parquet(path)
    else:
        table.write_csv(path, null_value="nan" if "nan" in path.name else "")
    return path


@pytest.mark.parametrize("name", ["g.csv", "nan.csv", "g.parquet", "g.jsonl", "g.ts"])
def test_missing_numbers_are_filled_in_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    path, columns = written_with_gaps(tmp_path / name, GAPS), sequences.Columns(sequence="id", fill=True)
    table = name.endswith((".csv", ".parquet"))
    columns = columns if table else columns._replace(sequence=None)
    whole = tables.pieces
    for rows in (2, 50):  # a sequence may lie in several pieces
        monkeypatch.setattr(
            tables, "pieces", lambda path, *columns, rows=rows, **given: whole(path, *columns, rows=rows, **given)
        )
        _, found, _ = sequences.sequences(path, columns)
        assert found.content.tolist() == FILLED  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(
        InputError,
        match=r"; correct it, mark missing numbers with --mark-gaps, fill them in with --fill-gaps, or skip such rows",
    ):
        list(sequences.sequences(path, columns._replace(fill=False)))
    bad = BadRows(skip=True)
    assert len(list(sequences.sequences(path, columns._replace(fill=False), bad=bad))) == 2
    # Nothing to fill in with.
    path = written_with_gaps(tmp_path / name, [[1.0, None, 2.0], [1.0, None, 3.0]])
    missing = (
        f"line {3 if '.csv' in name else 2}: sequence 'b' has no number in column 'y'"
        if table
        else "channel 2 has no numbers"
    )
    with pytest.raises(InputError, match=rf"{missing}; correct it, or skip such rows"):
        list(sequences.sequences(path, columns))
    bad = BadRows(skip=True)
    assert len(list(sequences.sequences(path, columns, bad=bad))) == 2
    assert bad.count == 1


@pytest.mark.parametrize("fill", [False, True])
def test_words_that_say_that_a_number_is_missing(tmp_path: Path, fill: bool):
    words = ["", '""', " ", "?", "NA", "n/a", " #N/A", "<NA>", "NaN", "NULL", "None"]
    path = write(tmp_path / "a.csv", "id,label,x\na,up,1\n" + "".join(f"a,up,{word}\n" for word in words))
    if fill:
        (one,) = sequences.sequences(path, sequences.Columns(sequence="id", fill=True))
        assert one.content.tolist() == [[1]] * 12  # pyright: ignore[reportAttributeAccessIssue]
        return
    bad = BadRows(skip=True)
    assert list(sequences.sequences(path, sequences.Columns(sequence="id"), bad=bad)) == []
    assert bad.count == 11
    path = write(tmp_path / "a.csv", "id,label,x\na,up,1\na,up,NA\n")
    with pytest.raises(
        InputError, match=r"line 3: column 'x' should be a number but is 'NA'; correct it, mark missing"
    ):
        list(sequences.sequences(path, sequences.Columns(sequence="id")))


def test_other_words_are_not_missing_numbers(tmp_path: Path):
    path = write(tmp_path / "a.csv", "id,label,x\na,up,1\na,up,off\n")
    with pytest.raises(InputError, match=r"line 3: column 'x' should be a number but is 'off'; correct it, or skip"):
        list(sequences.sequences(path, sequences.Columns(sequence="id", fill=True)))
    path = write(tmp_path / "b.csv", "id,label,x\na,up,1\na,up,inf\n")
    with pytest.raises(InputError, match=r"line 3: column 'x' should be a number but is 'inf'"):
        list(sequences.sequences(path, sequences.Columns(sequence="id", fill=True)))


SEQUENCES = {
    "a blank label": ("a.jsonl", '{"values": [[1]], "label": " "}\n', "line 1: 'label' should be a label but is ''", True),
    "a blank label in a table": ("a.csv", LONG + "c, ,1,2\n", "line 7: column 'label' has no value", True),
    "a word in .ts": ("a.ts", ARCHIVE + "1,x:2,3:1\n", "line 8: could not convert string to float: 'x'", True),
    "missing in .ts": ("a.ts", ARCHIVE + "1,?:2,3:1\n", "line 8: step 2 of channel 1 has no number; correct it, mark missing numbers with --mark-gaps, fill them in with --fill-gaps, or skip", True),
    "not a number in .ts": ("a.ts", ARCHIVE + "1,2:2,nan:1\n", "line 8: step 2 of channel 2 has no number", True),
    "too large in .ts": ("a.ts", ARCHIVE + "1,2:2,1e39:1\n", "line 8: step 2 of channel 2 is 1e+39, which is more than 3.4e+38", True),
    "too large in JSON": ("a.jsonl", '{"values": [[-1e39]], "label": "a"}\n', "line 1: step 1 of channel 1 is -1e+39, which is more than 3.4e+38", True),
    "too large in a table": ("a.csv", LONG + "c,up,1,1e39\n", "line 7: column 'y' should be a number of at most 3.4e+38 but is '1e39'", True),
    "unequal dimensions": ("a.ts", ARCHIVE + "1,2:2:1\n", "line 8: its dimensions have 1 to 2 values, but should have as many", True),
    "a channel too few": ("a.ts", ARCHIVE + "1,2:1\n", "line 8: the sequence has 1 channels, but those before it have 2", True),
    "no colon": ("a.ts", ARCHIVE + "1,2,3\n", "line 8: no colon before the label", True),
    "no @data": ("a.ts", "@dimensions 2\n", "has no @data line", False),
    "no header": ("a.ts", "1,2:3,4:1\n", "line 1: '1,2:3,4:1' is before @data", False),
    "no labels": ("a.ts", "@classLabel false\n@data\n1,2:3,4\n", "line 1: the file says that it has no class labels", False),
    "time stamps": ("a.ts", "@timeStamps true\n@data\n", "line 1: values with timestamps are not supported", False),
    "ragged values": ("a.jsonl", '{"values": [[1], [2, 3]], "label": "a"}\n', "line 1: 'values' should be a list of steps", True),
    "words for values": ("a.jsonl", '{"values": [["a"]], "label": "a"}\n', "line 1: 'values' should be a list of steps", True),
    "half a character": ("a.jsonl", '{"values": [[1]], "label": "\\udc00"}\n', r"line 1: \udc00 is half a character", True),
    "a number beyond all": ("a.jsonl", f'{{"values": [[1], [{10**400}]], "label": "a"}}\n', "line 1: 'values' should be a list of steps", True),
    "no values": ("a.jsonl", '{"label": "a"}\n', "line 1: there is no 'values'; the names are 'label'", True),
    "no label": ("a.jsonl", '{"values": [[1]]}\n', "line 1: there is no 'label'; the names are 'values'", True),
    "a null label": ("a.jsonl", '{"values": [[1]], "label": null}\n', "line 1: 'label' should be a label but is None", True),
    "a list": ("a.jsonl", "[1]\n", "line 1: there is no 'values'", True),
    "no value": ("a.csv", LONG + "c,up,1,\n", "line 7: column 'y' should be a number but is nothing", True),
    "two labels": ("a.csv", LONG + "c,up,1,1\nc,down,1,1\n", "line 8: sequence 'c' is labelled 'down' here but 'up' before", True),
    "an empty label": ("a.csv", LONG + "c,,1,2\n", "line 7: column 'label' has no value", True),
    "a sequence again": ("a.csv", LONG + "a,up,1,1\n", "line 7: sequence 'a' continues after another one began", False),
    "no channel": ("a.csv", "id,label\na,up\n", "has no column of numbers besides 'id', 'label'; add one", False),
    "no column": ("a.csv", LONG.replace("id", "number"), "has no column 'id'; its columns are 'number', 'label'", False),
}  # fmt: skip


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences_that_make_no_sense(tmp_path: Path, case: str):
    name, content, message, can_skip = SEQUENCES[case]
    path = write(tmp_path / name, content)
    columns = sequences.Columns(sequence="id" if name == "a.csv" else None)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        list(sequences.sequences(path, columns))
    assert str(path) in str(caught.value)
    assert ("--skip-bad" in str(caught.value)) == can_skip
    if can_skip:
        bad = BadRows(skip=True)
        kept = contents(sequences.sequences(path, columns, bad=bad))
        assert bad.count == 1
        assert kept == [(v, k) for (v, _), k in zip(zip(VALUES, "ab", strict=True), ("12" if name == "a.ts" else ("up", "down")), strict=True)][: 0 if name == "a.jsonl" else 2]  # fmt: skip


def test_a_table_needs_to_be_told_what_a_sequence_is(tmp_path: Path):
    with pytest.raises(InputError, match=r"name the column .* with --sequence .* or the column .* with --text"):
        list(sequences.sequences(write(tmp_path / "a.csv", LONG), sequences.Columns()))


# Series

SERIES = "shop,day,price,sales\n" + "".join(
    f"{shop},2026-01-{day:02},{day % 3},{10 * day + ord(shop)}\n" for shop in "ab" for day in range(1, 29)
)
NAMES = series.Columns(("sales",), ("price",), "day", "shop")


def test_series_of_a_table(tmp_path: Path):
    found, targets = series.read(write(tmp_path / "a.csv", SERIES), NAMES, BadRows())
    assert (targets, [s.group for s in found]) == (("sales",), ["a", "b"])
    for s in found:
        assert s.targets[:, 0].tolist() == [10 * day + ord(s.group) for day in range(1, 29)]
        assert s.known[:, 0].tolist() == [day % 3 for day in range(1, 29)]
        assert np.diff(s.times).tolist() == [86_400_000_000] * 27
        assert list(written(series.times_ahead(s, 2), s.pace)) == ["2026-01-29 00:00:00", "2026-01-30 00:00:00"]
    every, names = series.read(tmp_path / "a.csv", series.Columns(time="day", group="shop"), BadRows())
    assert names == ("price", "sales")
    assert every[0].targets.shape == (28, 2)


def test_times_may_be_numbers_and_months(tmp_path: Path):
    path = write(tmp_path / "a.csv", "t,x\n0.5,1\n1.0,2\n1.5,4\n")
    (one,), _ = series.read(path, series.Columns(time="t"), BadRows())
    assert list(written(series.times_ahead(one, 2), one.pace)) == [2, 2.5]
    months = "".join(f"2025-{m:02}-01,{m}\n" for m in range(1, 13))
    (one,), _ = series.read(write(tmp_path / "m.csv", "t,x\n" + months), series.Columns(time="t"), BadRows())
    assert len(one.targets) == 12


def ahead_of(path: Path, times: list[str], count: int = 3, tail: int = 4, **options: Any) -> list[str | float]:
    """The times that follow these, of which only the last four are kept, from a file that is read in pieces."""
    path.write_text("t,x\n" + "".join(f"{time},{k}\n" for k, time in enumerate(times)))
    (one,), _ = series.read(path, series.Columns(time="t"), BadRows(), tail=tail, **options)
    return list(written(series.times_ahead(one, count), one.pace))


MONTHS = [(year, month) for year in (2023, 2024) for month in range(1, 13)]
NEXT = {
    "months": ([f"{y}-{m:02}-01" for y, m in MONTHS], ["2025-01-01 00:00:00", "2025-02-01 00:00:00", "2025-03-01 00:00:00"]),
    "the middle of months": ([f"{y}-{m:02}-15 06:30" for y, m in MONTHS], ["2025-01-15 06:30:00", "2025-02-15 06:30:00", "2025-03-15 06:30:00"]),
    "month ends": ([f"{y}-{m:02}-{calendar.monthrange(y, m)[1]}" for y, m in MONTHS], ["2025-01-31 00:00:00", "2025-02-28 00:00:00", "2025-03-31 00:00:00"]),
    "month ends of 31 days": ([f"2024-{m:02}-31" for m in (1, 3, 5, 7)], ["2024-09-30 00:00:00", "2024-11-30 00:00:00", "2025-01-31 00:00:00"]),
    "quarters": ([f"{y}-{m:02}-01" for y in range(2020, 2025) for m in (1, 4, 7, 10)], ["2025-01-01 00:00:00", "2025-04-01 00:00:00", "2025-07-01 00:00:00"]),
    "years": ([f"{y}-07-01" for y in range(2000, 2025)], ["2025-07-01 00:00:00", "2026-07-01 00:00:00", "2027-07-01 00:00:00"]),
    "months of a zone": ([f"2024-{m:02}-01T00:00:00+0{2 if 3 < m < 11 else 1}:00" for m in range(1, 13)], ["2025-01-01 00:00:00+01:00", "2025-02-01 00:00:00+01:00", "2025-03-01 00:00:00+01:00"]),
    "month ends of a zone": ([f"2024-{m:02}-{calendar.monthrange(2024, m)[1]}T00:00:00+0{2 if 3 < m < 11 else 1}:00" for m in range(1, 13)], ["2025-01-31 00:00:00+01:00", "2025-02-28 00:00:00+01:00", "2025-03-31 00:00:00+01:00"]),
    "tenths of seconds": ([f"2026-01-01T00:00:0{k // 10}.{k % 10}00" for k in range(18)], ["2026-01-01 00:00:01.800", "2026-01-01 00:00:01.900", "2026-01-01 00:00:02.000"]),
    "microseconds": ([f"2026-01-01T00:00:00.00000{k}" for k in range(7)], ["2026-01-01 00:00:00.000007", "2026-01-01 00:00:00.000008", "2026-01-01 00:00:00.000009"]),
    "an offset": ([f"2026-01-01T{k:02}:00:00-05:30" for k in range(22)], ["2026-01-01 22:00:00-05:30", "2026-01-01 23:00:00-05:30", "2026-01-02 00:00:00-05:30"]),
    "an offset without a colon": ([f"2026-01-01T{k:02}:00:00+0530" for k in range(22)], ["2026-01-01 22:00:00+05:30", "2026-01-01 23:00:00+05:30", "2026-01-02 00:00:00+05:30"]),
    "another offset at last": ([f"2025-10-26T0{h}:00:00+0{o}:00" for h, o in ((0, 2), (1, 2), (2, 2), (2, 1), (3, 1))], ["2025-10-26 04:00:00+01:00", "2025-10-26 05:00:00+01:00", "2025-10-26 06:00:00+01:00"]),
    "UTC": ([f"2026-01-01T{k:02}:00:00Z" for k in range(5)], ["2026-01-01 05:00:00+00:00", "2026-01-01 06:00:00+00:00", "2026-01-01 07:00:00+00:00"]),
    "a step before the last rows": ([f"2026-01-{k:02}" for k in (*range(1, 20), 20, 22, 24, 25)], ["2026-01-26 00:00:00", "2026-01-27 00:00:00", "2026-01-28 00:00:00"]),
    "seconds since 1970": ([str(1767225600 + 3600 * k) for k in range(9)], [1767258000, 1767261600, 1767265200]),
    "tenths": ([str(k / 10) for k in range(9)], [0.9, 1, 1.1]),
    "tenths, far from zero": ([f"{1767225600 + k / 10:.1f}" for k in range(9)], [1767225600.9, 1767225601, 1767225601.1]),
    "no usual step": (["0", "10", "21", "33", "46"], [57.5, 69, 80.5]),
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("case", NEXT)
def test_the_times_that_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, rows: int):
    times, following = NEXT[case]
    whole = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, **given: whole(path, rows=rows, **given))
    gaps = {"fill_gaps": True} if case == "a step before the last rows" else {}
    assert ahead_of(tmp_path / "a.csv", times, tail=9 if case == "no usual step" else 4, **gaps) == following


def test_times_ahead_are_those_that_the_file_gives(tmp_path: Path):
    rows = [f"2026-01-{day:02},{day % 3},{'' if day > 9 else day}" for day in (*range(1, 10), 12, 13)]
    path = write(tmp_path / "a.csv", "day,price,sales\n" + "\n".join(rows) + "\n")
    columns = series.Columns(("sales",), ("price",), "day")
    (one,), _ = series.read(path, columns, BadRows(), fill_gaps=True, tail=4)
    texts = [f"2026-01-{day} 00:00:00" for day in range(10, 15)]
    assert list(written(series.times_ahead(one, 5), one.pace)) == texts
    assert list(written(series.times_ahead(one, 1), one.pace)) == texts[:1]
    path.write_text(path.read_text().replace("-12,", "-10,").replace("-13,", "-11T06:00,"))
    (one,), _ = series.read(path, columns, BadRows(), tail=4)
    texts = ["2026-01-10 00:00:00", "2026-01-11 06:00:00", "2026-01-12 06:00:00"]
    assert list(written(series.times_ahead(one, 3), one.pace)) == texts


def test_the_step_of_times_that_are_rounded_is_the_usual_one():
    pace = Pace(dates=False)
    pace.add(np.arange(100) / 10 + 1767225600)
    assert pace.step == 0.1
    assert pace.said() == "0.1"


def test_a_gap_is_filled_evenly(tmp_path: Path):
    path = write(tmp_path / "a.csv", "t,x\n" + "".join(f"{time},{time}\n" for time in (0, 10, 20, 39, 49, 59)))
    (one,), _ = series.read(path, series.Columns(time="t"), BadRows(), fill_gaps=True)
    assert one.times.tolist() == [0, 10, 20, 29.5, 39, 49, 59]
    assert one.targets[:, 0].tolist() == [0, 10, 20, 20, 39, 49, 59]


def test_a_row_without_values_amid_others_is_named(tmp_path: Path):
    path = write(tmp_path / "a.csv", "x,y,note\n1,2,0\n,,0\n3,4,0\n,,0\n")
    with pytest.raises(InputError, match="line 3: the row has no values, but later rows do"):
        series.read(path, series.Columns(("x", "y"), ("note",)), BadRows(), tail=5)


def test_lines_are_counted_across_values_of_several_lines(tmp_path: Path):
    path = write(tmp_path / "a.csv", 'x,note\n1,"a\nb"\n2,c\n3,"d\ne"\n4,f\n5,g\n')
    lines = [line for piece in tables.pieces(path, rows=2) for line in piece[tables.LINE].to_list()]
    assert lines == [2, 4, 5, 7, 8]


def test_a_number_too_far_below_zero_is_a_bad_row(tmp_path: Path):
    path, bad = write(tmp_path / "a.csv", "x\n1\n-1e30\n1e30\n"), BadRows(skip=True)
    found = [tables.numbers(piece, ["x"], path, bad, 1e20)["x"].to_list() for piece in tables.pieces(path)]
    assert (found, bad.count) == ([[1.0]], 2)
    assert "line 3: column 'x' should be a number of at most 1e+20 but is '-1e30'" in bad.first


def test_times_of_a_zone_keep_its_offset(tmp_path: Path):
    moments = [datetime(2026, 6, 30, hour, tzinfo=ZoneInfo("Europe/Berlin")) for hour in range(20, 24)]
    pl.DataFrame({"t": moments, "x": [1.0, 2.0, 3.0, 4.0]}).write_parquet(tmp_path / "a.parquet")
    (one,), _ = series.read(tmp_path / "a.parquet", series.Columns(time="t"), BadRows(), tail=4)
    assert list(written(series.times_ahead(one, 1), one.pace)) == ["2026-07-01 00:00:00+02:00"]


def test_times_of_a_parquet_file(tmp_path: Path):
    """Durations are numbers of seconds. Times of day have no order, since they begin again each day."""
    path, columns = tmp_path / "a.parquet", series.Columns(time="t")

    def written_as(times: pl.Series) -> Path:
        pl.DataFrame({"t": times, "x": [1.0, 2.0, 3.0]}).write_parquet(path)
        return path

    passed = pl.Series([timedelta(0), timedelta(seconds=1.5), timedelta(seconds=3)])
    for unit in ("ms", "us", "ns"):
        (one,), _ = series.read(written_as(passed.cast(pl.Duration(unit))), columns, BadRows())
        assert one.times.tolist() == [0, 1.5, 3]
        assert list(written(series.times_ahead(one, 2), one.pace)) == [4.5, 6]
    clock = pl.Series([time(0), time(8), time(16)])
    message = f"{path}: column 't' holds times of day, such as 00:00:00, without their dates; give dates and times in one column"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        series.read(written_as(clock), columns, BadRows())
    for times in ([datetime(2026, 1, 1), None, datetime(2026, 1, 2)], [timedelta(1), None, timedelta(2)]):
        with pytest.raises(InputError, match=r"line 2: column 't' should be a .* but is nothing; correct it, or skip"):
            series.read(written_as(pl.Series(times)), columns, BadRows())
        (one,), _ = series.read(path, columns, BadRows(skip=True))
        assert one.targets.tolist() == [[1], [3]]


def test_the_tail_of_a_file_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only the last rows are kept, and the rows that say what is known of the times ahead."""
    ahead = "".join(f"{shop},2026-01-{day:02},7,\n" for shop in "ab" for day in (29, 30))
    lines = sorted((SERIES + ahead).splitlines()[1:], key=lambda line: line.split(",")[1])
    path = write(tmp_path / "a.csv", "shop,day,price,sales\n" + "".join(line + "\n" for line in lines))
    whole = tables.pieces
    monkeypatch.setattr(tables, "pieces", lambda path, **given: whole(path, rows=9, **given))
    found, _ = series.read(path, NAMES, BadRows(), tail=5)
    for s in found:
        assert s.targets[:, 0].tolist() == [10 * day + ord(s.group) for day in range(24, 29)]
        assert s.known[:, 0].tolist() == [day % 3 for day in range(24, 29)] + [7, 7]
        assert len(s.times) == 5


def test_gaps_are_filled_with_what_is_before_them(tmp_path: Path):
    kept = [line for line in SERIES.splitlines() if "-05," not in line and "-06," not in line]
    path = write(tmp_path / "a.csv", "\n".join(kept) + "\n")
    message = f"{path}, line 6: 2 rows are missing before it, the only gap in the times of 'a'"
    with pytest.raises(InputError, match=re.escape(message)):
        series.read(path, NAMES, BadRows())
    found, _ = series.read(path, NAMES, BadRows(), fill_gaps=True)
    for s in found:
        latest = [4 if day in (5, 6) else day for day in range(1, 29)]
        assert s.targets[:, 0].tolist() == [10 * day + ord(s.group) for day in latest]
        assert s.known[:, 0].tolist() == [day % 3 for day in latest]
        assert np.diff(s.times).tolist() == [86_400_000_000] * 27
        assert s.given is not None
        assert np.argwhere(~s.given).tolist() == [[4, 0], [5, 0]]
        assert s.filled == 2
    # Rows of the times ahead do not make a past of what is missing before them.
    (tmp_path / "a.csv").write_text(
        "shop,day,price,sales\n"
        + "".join(f"a,2026-01-{day:02},{day},{day if day < 9 else ''}\n" for day in (*range(1, 9), 11, 12))
    )
    (one,), _ = series.read(path, NAMES, BadRows(), fill_gaps=True, tail=5)
    assert one.targets[:, 0].tolist() == [4, 5, 6, 7, 8]
    assert one.known[:, 0].tolist() == [4, 5, 6, 7, 8, 8, 8, 11, 12]
    assert one.filled == 0


def changed(line: int, content: str) -> str:
    lines = SERIES.splitlines()
    lines[line - 1] = content
    return "\n".join(lines) + "\n"


BROKEN = {
    "no number": (changed(4, "a,2026-01-03,1,many"), "line 4: column 'sales' should be a number but is 'many'"),
    "nothing known": (changed(4, "a,2026-01-03,,3"), "line 4: column 'price' should be a number but is nothing"),
    "no time": (changed(4, "a,soon,1,3"), "line 4: column 'day' should be a time such as 2026-01-31 12:00:00"),
    "no group": (changed(4, ",2026-01-03,1,3"), "line 4: column 'shop' has no value"),
    "twice": (
        changed(4, "a,2026-01-02,1,3"),
        "line 4: the row of 'a' has the same time as the one before it, on line 3",
    ),
    "out of order": (
        changed(4, "a,2026-01-01,1,3"),
        "line 4: the row of 'a' has an earlier time than the one before it",
    ),
    "another name": (
        SERIES.replace("price", "cost"),
        "has no column 'price'; its columns are 'shop', 'day', 'cost', 'sales'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_series_that_make_no_sense(tmp_path: Path, case: str):
    content, message = BROKEN[case]
    path = write(tmp_path / "a.csv", content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        series.read(path, NAMES, BadRows())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["time", "group"])
def test_a_name_without_letters_is_that_of_no_column(tmp_path: Path, kind: str):
    with pytest.raises(InputError, match="has no column ''; its columns are 'shop', 'day', 'price', 'sales'"):
        series.read(write(tmp_path / "a.csv", SERIES), NAMES._replace(**{kind: ""}), BadRows())


def test_a_table_of_which_no_row_is_left(tmp_path: Path):
    path = write(tmp_path / "a.csv", "day,price,sales\n2026-01-01,1,many\n2026-01-02,2,more\n")
    for named in (series.Columns(), series.Columns(time="day")):
        with pytest.raises(InputError, match="has no usable row"):
            series.read(path, named, BadRows(skip=True))


def test_a_column_that_is_no_series_is_told_what_to_do(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"column 'shop' should be a number but is 'a'.*name the series with --columns"
    ):
        series.read(write(tmp_path / "a.csv", SERIES), series.Columns(time="day"), BadRows())
    with pytest.raises(InputError, match="has no column to forecast besides 'sales'"):
        series.read(write(tmp_path / "b.csv", "sales\n1\n"), series.Columns(known=("sales",)), BadRows())
