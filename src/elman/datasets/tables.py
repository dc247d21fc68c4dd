"""Tables with named columns: CSV, TSV, JSON lines and Parquet, read with polars in pieces of rows.

Every value is read as text first, so that one that is no number is reported with its file, line and column.
"""

from __future__ import annotations

import codecs
import contextlib
import math
from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.datasets import store
from elman.datasets.reading import BadRows, byte_blocks, check_whole, json_lines, text_lines
from elman.errors import InputError

ROWS = 50_000  # of a piece
LINE = "\0line"  # a column that is added, with a name that no file has: where in its file a row stands, from 1
SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
OTHER_SIGNS = {  # that stand between values, what they are called, and what to do about them
    ";": ("semicolons", "separate them by commas, and write numbers with decimal points"),
    "\t": ("tabs", "rename it to end in .tsv"),
    ",": ("commas", "rename it to end in .csv"),
}
MISSING = ("", "?", "na", "n/a", "#n/a", "<na>", "nan", "null", "none")  # in place of a number, in any case
WHOLE = r"^(-?\d+)\.0$"  # a whole number as a float
FORMS = (*SEPARATORS, *JSON_LINES, ".parquet")
# Of recordings, as which a file is known in a folder; libsndfile cannot read the last three, of which one is told.
AUDIO = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64")
AUDIO += (".m4a", ".aac", ".wma")


def form(path: Path) -> str:
    """Returns the ending of a file's name that says its form: ".csv" for "a.csv" and for "a.csv.gz"."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zst")).suffix.lower()


def is_audio(path: Path) -> bool:
    """Returns whether a file is a recording, or a folder, which may have some."""
    return path.suffix.lower() in AUDIO or path.is_dir()


def pieces(
    path: Path,
    columns: Sequence[str] | None = None,
    rows: int = ROWS,
    bad: BadRows | None = None,
    empty: bool = False,
) -> Iterator[pl.DataFrame]:
    """Yields the rows of a table in pieces, in their order, with the column LINE added.

    columns: those that are needed; all if left out. bad: what becomes of JSON lines that are no objects. empty:
    whether rows without any value are kept, except at the end. Raises InputError if the file cannot be read, is empty, or
    lacks a column.
    """
    with _usable(path, bad or BadRows()) as (source, lines):
        yield from _pieces(path, _scan(path, source), lines, columns, rows, empty)


def _pieces(
    path: Path,
    lazy: pl.LazyFrame,
    lines: NDArray[np.int64] | None,
    columns: Sequence[str] | None,
    rows: int,
    empty: bool,
) -> Iterator[pl.DataFrame]:
    """Yields what `pieces` does. lines: where each row stands; None if they follow each other."""
    header, held = 0, list[pl.DataFrame]()  # held: rows without any value, which may be the last ones
    try:
        names = lazy.collect_schema().names()
        if form(path) in SEPARATORS:
            header = 1
            _check_separator(path, names)
        check_columns(columns or (), names, path)
        kept = names if columns is None else list(dict.fromkeys(columns))
        done, broken = 0, 0  # rows, and line ends inside values, before this piece
        for piece in lazy.collect_batches(chunk_size=rows, maintain_order=True):
            texts = [name for name, kind in piece.schema.items() if kind == pl.String]
            ends = pl.sum_horizontal(pl.lit(0), *(pl.col(name).str.count_matches("\n").fill_null(0) for name in texts))
            before = ends.cum_sum().shift(1, fill_value=0) + broken
            line = pl.int_range(pl.len(), dtype=pl.Int64) + (done + header + 1)
            if lines is not None:
                line = pl.lit(pl.Series(lines[done : done + piece.height]))
            words = pl.col(pl.Categorical, pl.Enum).cast(pl.String)  # of which polars makes no numbers
            marked = piece.with_columns((line + before).alias(LINE), words)
            broken += int(piece.select(ends.sum()).item() or 0) if texts else 0
            done += piece.height
            # An empty line is a row of nothing.
            filled = ~pl.all_horizontal(pl.col(name).is_null() for name in names)
            if empty:
                marked = pl.concat([*held, marked])
                end = int(marked.select(filled.arg_true().max() + 1).item() or 0)
                marked, held = marked[:end], [marked[end:]]
            else:
                marked = marked.filter(filled)
            yield marked.select(*kept, LINE)
        if not done:
            check_whole(path)
            raise InputError(f"{path} has no rows; give a table with at least one")
    except pl.exceptions.PolarsError as error:
        check_whole(path)
        raise InputError(f"{path} cannot be read as {form(path)[1:]}: {_reason(path, error)}") from error
    except OSError as error:
        check_whole(path)
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give a file that exists and that you may read"
        ) from error


def check_columns(wanted: Sequence[str], have: Sequence[str], path: Path) -> None:
    """Raises InputError if a table lacks a column."""
    missing = [name for name in wanted if name not in have]
    if missing:
        lacks, has = f"{path} has no column {missing[0]!r}", f"its columns are {', '.join(map(repr, have))}"
        raise InputError(
            f"{lacks}; {has}: choose one of them", f"{lacks}, which the run reads; {has}: rename or add it"
        )


@contextlib.contextmanager
def _usable(path: Path, bad: BadRows) -> Iterator[tuple[Path | bytes, NDArray[np.int64] | None]]:
    """Yields what polars can read of a file, and the lines of its rows; None for these if the file is used as it is.

    Of JSON lines, polars passes empty ones over without counting them, refuses a file for one line that is no object,
    and does not say which. So such a file is copied without them.
    """
    if form(path) not in JSON_LINES or not path.is_file():
        yield path, None
        return
    good, before = array("q"), bad.count
    for number, line, row in json_lines(path, bad):
        if row:
            good.append(number)
        else:
            bad.found(f"{path}, line {number}: a row should be an object with values but is {line[:60]!r}")
    if bad.count == before and (not good or good[-1] == len(good)):
        yield _without_mark(path) or path, None
        return
    if not good:
        raise InputError(f"{path} has no row that can be used, the first: {bad.first}; give a table with numbers")
    lines = np.frombuffer(good, np.int64)
    with store.written(_lines(path, lines), ".jsonl") as copy:
        yield copy, lines


def _lines(path: Path, numbers: NDArray[np.int64]) -> Iterator[bytes]:
    """Yields the lines of a file that have these numbers, which rise."""
    wanted = iter(numbers.tolist())
    following = next(wanted, 0)
    for number, line in text_lines(path):
        if number == following:
            yield f"{line}\n".encode()
            following = next(wanted, 0)


def _scan(path: Path, source: Path | bytes) -> pl.LazyFrame:
    """source: where the content of the file is read."""
    kind = form(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory; give a table: {', '.join(FORMS)}")
    if not path.exists():
        raise InputError(
            f"cannot read {path}: No such file or directory; give a file that exists and that you may read"
        )
    if not path.stat().st_size:
        raise InputError(f"{path} is empty; give a table with a header and rows")
    if kind in SEPARATORS:
        return pl.scan_csv(path, separator=SEPARATORS[kind], infer_schema=False, glob=False)
    if kind in JSON_LINES:
        return pl.scan_ndjson(source, infer_schema_length=None)
    if kind == ".parquet":
        return pl.scan_parquet(path, glob=False)
    raise InputError(f"{path} does not end in {', '.join(FORMS)}; rename it, or convert it to one of these")


def _without_mark(path: Path) -> bytes | None:
    """Returns the content of a file that begins with a byte-order mark, without it, and None for any other file.

    Of JSON lines, polars takes the mark for a value.
    """
    blocks = byte_blocks(path)
    if not next(blocks, b"").startswith(codecs.BOM_UTF8):
        return None
    return b"".join(byte_blocks(path)).removeprefix(codecs.BOM_UTF8)


def _check_separator(path: Path, names: Sequence[str]) -> None:
    """Raises InputError if the one column of a table is several, with another sign between their values."""
    own = form(path)
    for sign, (called, remedy) in OTHER_SIGNS.items():
        if sign != SEPARATORS[own] and len(names) == 1 and sign in names[0]:
            _, row = next(islice(text_lines(path), 1, None), (2, sign))
            if sign in row:  # and not only in what the column is called
                raise InputError(
                    f"{path} has only the column {names[0]!r}: its values seem to be separated by {called}; {remedy}"
                )


def _reason(path: Path, error: Exception) -> str:
    """Returns what is wrong with a file, with the line where that can be found."""
    import csv

    if form(path) in SEPARATORS:
        csv.field_size_limit(2**31 - 1)  # a value may be long
        lines = csv.reader((line for _, line in text_lines(path)), delimiter=SEPARATORS[form(path)])
        header = next(lines)
        for row in lines:
            if len(row) > len(header):
                return f"line {lines.line_num} has {len(row)} values, but the header names {len(header)} columns; correct it"
    return f"{str(error).splitlines()[0]}; correct it"


def numbers(
    piece: pl.DataFrame,
    columns: Sequence[str],
    path: Path,
    bad: BadRows,
    most: float = math.inf,
    lacking: bool = False,
    remedy: str = "",
    others: str = "",
) -> pl.DataFrame:
    """Returns the piece with these columns as float64. A row in which one is no finite number is a bad row.

    most: how far from zero a number may be. lacking: whether a number may be missing, and is then null or NaN; remedy: what
    helps in a training where it must not be. others: what helps there with a column that has no numbers. Raises InputError
    for a column of what is never a number, such as lists.
    """
    if not columns:
        return piece
    _check_kinds(piece, columns, path, "numbers", (pl.Binary, pl.Date, pl.Datetime, pl.Time), others)
    cast = piece.with_columns(pl.col(name).cast(pl.Float64, strict=False).alias(name) for name in columns)
    fits = {name: _fits(cast[name], most).fill_null(False) for name in columns}
    absent = {name: _absent(piece[name], cast[name]) for name in columns}
    if lacking:
        fits = {name: fit | absent[name] for name, fit in fits.items()}
    good = pl.DataFrame(fits).select(pl.all_horizontal(pl.all())).to_series()
    for row in (~good).arg_true().to_list():
        name = next(name for name, fit in fits.items() if not fit[row])
        value, number = piece[name][row], cast[name][row]
        what = "nothing" if value is None else repr(value)
        limit = f" of at most {most:.3g}" if number is not None and math.isfinite(number) else ""
        own = others if cast[name].is_null().all() else ""
        own = remedy if absent[name][row] else own
        bad.found(f"{path}, line {piece[LINE][row]}: column {name!r} should be a number{limit} but is {what}", own)
    return cast.filter(good)


def _absent(values: pl.Series, numbers: pl.Series) -> pl.Series:
    """Whether cells have no number: they are empty, NaN, or a word that says so. numbers: those that were read in them."""
    found = values.is_null() | numbers.is_nan().fill_null(False)
    if values.dtype == pl.String and numbers.null_count():
        found |= values.str.strip_chars().str.to_lowercase().is_in(MISSING).fill_null(False)
    return found


def _fits(values: pl.Series, most: float) -> pl.Series:
    """Whether numbers are finite and not too far from zero."""
    return (values.abs() < math.inf) & (values.abs() <= most)


def check_texts(piece: pl.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Raises InputError for a column of what is never a text, such as lists, or bytes that are not UTF-8."""
    _check_kinds(piece, columns, path, "texts", (pl.Duration,))
    for name in (each for each in columns if piece.schema[each] == pl.Binary):
        try:
            piece[name].cast(pl.String)
        except pl.exceptions.ComputeError as error:
            raise InputError(f"{path}: column {name!r} should have texts, but has bytes that are not UTF-8; convert it") from error  # fmt: skip


def words(
    piece: pl.DataFrame, columns: Sequence[str], path: Path, whole: bool = True, missing: Sequence[str] = ("",)
) -> pl.DataFrame:
    """Returns the piece with these columns as texts, with no blanks around them, and null where one is missing.

    whole: whether 1.0 is 1, as a column of whole numbers of which some are missing often has floats. missing: what stands
    for nothing, in small letters; NaN in a column of floats does in any case.
    """
    check_texts(piece, columns, path)
    found = list[pl.Expr]()
    for name in columns:
        text = pl.col(name)
        text = text.fill_nan(None) if piece.schema[name].is_float() else text
        text = text.cast(pl.String).str.strip_chars()
        text = text.str.replace(WHOLE, "$1") if whole else text
        found.append(pl.when(~text.str.to_lowercase().is_in(missing)).then(text).alias(name))
    return piece.with_columns(found)


def _check_kinds(
    piece: pl.DataFrame,
    columns: Sequence[str],
    path: Path,
    wanted: str,
    kinds: Sequence[type[pl.DataType]],
    remedy: str = "",
) -> None:
    """Raises InputError for a column of lists or objects, or of another of these kinds.

    wanted: what it should have. remedy: what else helps in a training.
    """
    for name in columns:
        kind = piece.schema[name]
        if kind.is_nested() or kind in kinds:
            problem = f"{path}: column {name!r} should have {wanted}, but has the type {kind}; convert it"
            raise InputError(f"{problem}, or {remedy}" if remedy else problem, problem)


def texts(piece: pl.DataFrame, columns: Sequence[str], path: Path, bad: BadRows) -> pl.DataFrame:
    """Returns the piece with these columns as text. A row in which one is missing is a bad row."""
    check_texts(piece, columns, path)
    cast = piece.with_columns(pl.col(name).cast(pl.String).alias(name) for name in columns)
    wrong = ~pl.all_horizontal(pl.col(name).is_not_null() for name in columns)
    for row in cast.with_row_index().filter(wrong).get_column("index").to_list():
        name = next(name for name in columns if cast[name][row] is None)
        bad.found(f"{path}, line {piece[LINE][row]}: column {name!r} has no value")
    return cast.filter(~wrong)
