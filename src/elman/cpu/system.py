"""What differs between operating systems. Linux is tested; macOS and Windows are written down, not tested.

                    Linux              macOS                    Windows
OpenMP of torch     found in torch     found if it has GNU's    not found: one thread
                                       entry, else one thread
processors          may be chosen      not chosen               not chosen
sizes of caches     read               those of an ordinary processor
code is kept in     ~/.cache/elman     ~/Library/Caches/elman   %LOCALAPPDATA%\\elman\\Cache
its owner           checked            checked                  not checked: the system keeps it to the user
executable memory   tried              tried                    taken for granted
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch


@cache
def parallel() -> Any:
    """GOMP_parallel(function, data, threads, flags) of the OpenMP that torch has loaded, or None."""
    try:
        library = ctypes.CDLL(torch._C.__file__)
        run, _, _ = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (AttributeError, OSError):
        return None
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


class Functions(NamedTuple):
    """Addresses of what compiled code calls; 0 where the system has none."""

    team: int = 0  # how many threads a parallel region has got
    number: int = 0  # which of them this is
    give_way: int = 0  # let another thread have the processor
    processor: int = 0  # the number of the one this thread stands on
    mask: int = 0  # those it may stand on
    set_mask: int = 0


@cache
def functions() -> Functions:
    of_team = [_address(torch._C.__file__, name) for name in ("omp_get_num_threads", "omp_get_thread_num")]
    names = ("sched_yield", "sched_getcpu", "sched_getaffinity", "sched_setaffinity")
    return Functions(*of_team, *[_address(None, name) for name in names])


def _address(library: str | None, name: str) -> int:
    """Where a function of a library, or of the process, lies; 0 if it is not there."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0


def cache_bytes(level: int) -> int:
    """The size of a core's cache of data, as Linux tells it; elsewhere that of an ordinary one."""
    for of in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, number, size = [(of / name).read_text().strip() for name in ("type", "level", "size")]
            if kind != "Instruction" and int(number) == level:
                return int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return {1: 32 << 10, 2: 1 << 20}[level]


@cache
def refuses_code() -> str | None:
    """Why memory that was written to may not be executed, as some hardened systems have it; None if it may."""
    if os.name != "posix":
        return None
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        byte = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(byte)
        refused = protect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
        error = ctypes.get_errno()
        protect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        del byte
    return f"this system lets no memory be executed that was written to ({os.strerror(error)})" if refused else None


def directory() -> Path | None:
    """Where compiled code is kept: a folder of the user's, or the one that ELMAN_CACHE names; None if that is "off".

    RuntimeError if it lies in a home directory that is not known; a folder called ~ would be made otherwise.
    """
    asked = os.environ.get("ELMAN_CACHE")
    if asked == "off":
        return None
    try:
        return Path(asked or platformdirs.user_cache_dir("elman")).expanduser()
    except RuntimeError as error:
        whose = asked or "this user"
        raise RuntimeError(f"no home directory is known for {whose}; let ELMAN_CACHE name another folder") from error


def not_private(status: os.stat_result) -> str | None:
    """Why somebody else could write to a file or folder, or None."""
    if os.name != "posix":
        return None
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, and this is user {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others than its owner may write to it (mode {stat.S_IMODE(status.st_mode):o}); chmod go-w it"
    return None
