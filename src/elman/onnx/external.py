"""Tensors that an ONNX file keeps in other files. Only files in the folder of the model are read.

The reader follows no link, symbolic or hard, since a link may lead out of the folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto

from elman.onnx.activations import Problem
from elman.onnx.node import bodies


class External:
    """Reads external data from a folder; without a folder there is none to read."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self, tensor: TensorProto, size: int) -> bytes:
        """The bytes of a tensor that has `size` of them. Raises Problem if they are not there."""
        told = {entry.key: entry.value for entry in tensor.external_data}
        location = text(told.get("location", ""))
        try:
            offset, length = int(told.get("offset") or 0), int(told.get("length") or size)
        except ValueError:
            raise Problem(f"has external data in {location!r} at no whole number; restore the file") from None
        if length != size:
            raise Problem(
                f"is a tensor of shape {tuple(tensor.dims)}, which takes {size} bytes, but {length} bytes of external "
                f"data in {location!r}; restore the file"
            )
        file = self.open(location)
        try:
            held = os.fstat(file).st_size
            if offset < 0 or offset + size > held:
                raise Problem(
                    f"has external data in {location!r} at {offset} of {size} bytes, but that file has {held}; restore it"
                )
            pieces = []
            while size:
                piece = os.pread(file, min(size, 1 << 30), offset)
                if not piece:
                    raise Problem(f"has external data in {location!r}, which became shorter; load it again")
                pieces.append(piece)
                size, offset = size - len(piece), offset + len(piece)
            return b"".join(pieces)
        except OSError as error:
            raise Problem(f"has external data in {location!r}, which cannot be read: {error.strerror}") from error
        finally:
            os.close(file)

    def open(self, location: str) -> int:
        """Opens a file in the folder, one part of its path after the other. Links may not be among the parts.

        Raises Problem if it cannot be read.
        """
        has = f"has external data in {location[:200]!r}"
        parts = location.split("/")
        if self.folder is None:
            raise Problem(f"{has}, but the model is not from a file; give it with its data inside")
        if not all(parts) or "\0" in location or "\\" in location or {".", ".."} & set(parts[1:]) or parts[0] == "..":
            raise Problem(f"{has}, which is not in the folder of the model; copy the data into {self.folder}")
        place = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for number, part in enumerate(parts):
                kind = os.O_DIRECTORY if number < len(parts) - 1 else os.O_NONBLOCK  # a pipe would wait for its writer
                inside = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=place)
                os.close(place)
                place = inside
        except OSError as error:
            os.close(place)
            link = "is a link" if _is_link(self.folder / location) else error.strerror
            raise Problem(f"{has}, which cannot be read: {link}; copy the data into {self.folder}") from error
        about = os.fstat(place)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
            os.close(place)
            what = "is a link" if stat.S_ISREG(about.st_mode) else "is not a regular file"
            raise Problem(f"{has}, which {what}; copy the data into {self.folder} as a file of its own")
        return place


def text(name: str | bytes) -> str:
    """A name from a file. protobuf gives the bytes of one that is no text."""
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def _is_link(path: Path) -> bool:
    try:
        return any(each.is_symlink() for each in (path, *path.parents))
    except OSError:
        return False


def other_files(model: ModelProto) -> set[str]:
    """Returns the names of the files beside a model that hold its weights."""
    told = (entry for tensor in _tensors(model.graph) for entry in tensor.external_data)
    return {text(entry.value) for entry in told if entry.key == "location"}


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph and of the bodies in it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for each in node.attribute:
            yield from (each.t, *each.tensors)
        for body in bodies(node):
            yield from _tensors(body)
