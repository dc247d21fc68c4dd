"""Data that a program holds, written as the files that tasks read."""

from __future__ import annotations

import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from elman.errors import InputError
from elman.files import write_atomically

# A path; a table as a frame of pandas, polars or Arrow, or as a mapping of columns; rows as mappings, as JSON lines have
# them; or an open text.
Data: TypeAlias = Any
TABLES = "a path, a frame of pandas, polars or Arrow, a mapping of columns, or rows as mappings in a list"
TEXTS = "a path, or an open text, such as io.StringIO(text)"
UNITS = ("D", "ms", "us", "ns")  # of times, that polars has


def is_path(data: Any) -> bool:
    """Returns whether data are told by the path of a file."""
    return isinstance(data, (str, os.PathLike))


def as_file(data: Data, directory: Path, name: str, task: str) -> Path:
    """Returns the path of data, which are written into a directory if they are none. name: of the file, without an ending.

    A table becomes Parquet, or JSON lines if it has lists; rows become JSON lines, in which arrays are lists and NaN is null.
    Raises InputError for anything else, and for what the task does not read.
    """
    if is_path(data):
        return Path(data)
    path = directory / f"{name}-{secrets.token_hex(4)}"
    columns = _columns(data)
    if columns is None and hasattr(data, "read") and task in ("lm", "tag"):
        return _written(path.with_suffix(".txt"), _text(data))
    rows: Any = data if columns is None else _rows(columns)
    if task == "lm" or rows is None or isinstance(rows, (bytes, bytearray)) or not isinstance(rows, Iterable):
        raise InputError(f"the data are {type(data).__name__}; give {TEXTS if task == 'lm' else TABLES}")
    if not isinstance(rows, pl.DataFrame):
        return _written(path.with_suffix(".jsonl"), _json_lines(rows))
    if task == "tag":
        raise InputError("the data are a table without lists; give rows of words and tags, which are lists")
    return _written(path.with_suffix(".parquet"), rows)


def _written(path: Path, content: bytes | Iterator[bytes] | pl.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, pl.DataFrame):
        write_atomically(path, content)
        return path
    try:
        content.write_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        path.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error}; free some space, or give a file") from error
    return path


def _text(data: Any) -> bytes:
    """Returns what is left of an open text."""
    try:
        text = data.read()
        return text.encode() if isinstance(text, str) else bytes(text)
    except (OSError, ValueError, TypeError, EOFError, zlib.error) as error:
        raise InputError(f"the text cannot be read: {error}; give {TEXTS}") from error


def _columns(data: Any) -> dict[str, Any] | None:
    """Returns the columns of a table by their names; None if it is no table."""
    if isinstance(data, (pl.DataFrame, pl.LazyFrame)):
        return _collected(data)
    if hasattr(data, "reset_index"):
        if not hasattr(data, "columns"):  # a single column of pandas
            return None
        # An index of pandas may have columns, such as times. What has no name only counts the rows.
        named = [name for name in data.index.names if name is not None and name not in data.columns]
        data = data.reset_index(level=named) if named else data
        return _different((name, data.iloc[:, k]) for k, name in enumerate(data.columns))
    if hasattr(data, "__arrow_c_stream__"):
        return _collected(pl.DataFrame(data))
    return _different(data.items()) if isinstance(data, Mapping) else None


def _collected(frame: pl.DataFrame | pl.LazyFrame) -> dict[str, Any]:
    try:
        return {series.name: series for series in frame.lazy().collect()}
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"the frame cannot be computed: {str(error).splitlines()[0]}; give another") from error


def _different(columns: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    found = dict[str, Any]()
    for name, values in columns:
        if str(name) in found:
            raise InputError(f"two columns are called {str(name)!r}; rename one of them")
        found[str(name)] = values
    return found


def _rows(columns: dict[str, Any]) -> pl.DataFrame | Iterator[dict[str, Any]]:
    """Returns a table of these columns, or its rows if some values are lists."""
    found = {name: _column(name, values) for name, values in columns.items()}
    lengths = {name: len(each) for name, each in found.items()}
    if len({*lengths.values()}) > 1:
        told = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise InputError(f"the columns have different lengths: {told}; give columns of the same length")
    if all(isinstance(each, pl.Series) and not each.dtype.is_nested() for each in found.values()):
        return pl.DataFrame([*found.values()])
    return (dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True))


def _column(name: str, values: Any) -> pl.Series | list[Any]:
    """Returns a column as polars has it, with null where a value is missing; a list if some values are lists."""
    if isinstance(values, pl.Series):
        return _without_nan(values.alias(name))
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise InputError(
            f"column {name!r} is {type(values).__name__}; give columns of values, or rows as mappings in a list"
        )
    if hasattr(values, "detach"):
        values = _array(values)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InputError(f"column {name!r} has {values.ndim} dimensions; give one, or rows as mappings in a list")
    kind = getattr(values, "dtype", None)
    if isinstance(kind, np.dtype) and kind.kind != "O" and not isinstance(values, np.ma.MaskedArray):
        every: Any = _in_units(np.asarray(values))
    else:
        listed = values.tolist() if hasattr(values, "tolist") else values
        every = [None if _is_missing(value) else value for value in listed]
        every = [os.path.abspath(value) if isinstance(value, os.PathLike) else value for value in every]
        if any(isinstance(value, Iterable) and not isinstance(value, (str, bytes)) for value in every):
            return every
        if any(isinstance(value, (float, np.floating)) for value in every):  # beside whole numbers, perhaps
            every = [float(v) if isinstance(v, (int, np.number)) and not isinstance(v, bool) else v for v in every]
    try:
        found = pl.Series(name, every)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        found = pl.Series(dtype=pl.Object)
    if found.dtype == pl.Object:
        kinds = ", ".join(sorted({type(value).__name__ for value in every if value is not None}))
        raise InputError(
            f"column {name!r} cannot be kept, with values of {kinds}; give one kind of numbers, texts or times"
        )
    return _without_nan(found)


def _without_nan(series: pl.Series) -> pl.Series:
    """Returns a column with null in place of NaN: a name of a sequence that is NaN would be a name."""
    return series.fill_nan(None) if series.dtype.is_float() else series


def _is_missing(value: Any) -> bool:
    """Returns whether a value is None, NaN, or what pandas calls missing, of which NA can be compared with nothing."""
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, (float, date, np.floating, np.datetime64)) and bool(value != value)


def _in_units(values: NDArray[Any]) -> NDArray[Any]:
    """Returns an array whose times are in microseconds if polars does not have their unit."""
    kind = values.dtype.kind
    if kind not in "mM":
        return values
    unit, count = np.datetime_data(values.dtype)
    known = unit in UNITS and count == 1 and (kind == "M" or unit != "D")
    return values if known else values.astype(f"{kind}8[us]")


def _array(tensor: Any) -> NDArray[Any]:
    """Returns a tensor of torch as an array. NumPy has no half types of torch."""
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _json_lines(rows: Iterable[Any]) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise InputError(f"row {number} of the data is {type(row).__name__}, and no mapping; give {TABLES}")
        try:
            yield json.dumps(_plain(row, number), ensure_ascii=False).encode() + b"\n"
        except InputError:
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"row {number} of the data cannot be written: {error}; give numbers, texts, or lists of them"
            ) from error


def _plain(value: Any, number: int) -> Any:
    """Returns a value as JSON has it. number: of the row, from 1."""
    if _is_missing(value):
        return None
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, os.PathLike):
        return os.path.abspath(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(each, number) for name, each in value.items()}
    if isinstance(value, (date, time)):  # and datetime
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if hasattr(value, "detach"):
        value = _array(value)
    elif hasattr(value, "to_numpy"):  # frames and columns of pandas and polars
        value = value.to_numpy()
    if isinstance(value, np.ma.MaskedArray):
        return _plain(value.tolist(), number)
    if isinstance(value, (np.ndarray, np.generic)):
        return _list(np.asarray(value), number)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return [_plain(each, number) for each in value]
    raise InputError(f"row {number} of the data has a {type(value).__name__}; give numbers, texts, or lists of them")


def _list(values: NDArray[Any], number: int) -> Any:
    """Returns what `_plain` does of an array: lists in lists, or a single value."""
    kind = values.dtype.kind
    if kind == "f":
        values = values.astype(np.float64)  # of the long one, Python makes no float
        if np.isnan(values).any():
            found = values.astype(object)
            found[np.isnan(values)] = None
            return found.tolist()
    if kind in "biufUS":
        return values.tolist()
    every = values.astype(f"{kind}8[us]") if kind in "mM" else values  # nanoseconds would become whole numbers
    return _plain(every.tolist(), number)
