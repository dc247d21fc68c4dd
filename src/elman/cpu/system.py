"""What differs between operating systems. Linux is tested; macOS and Windows are provided for, but not tested.

                         Linux              macOS                      Windows
torch's OpenMP           found in torch     found if it has GNU's      not found: one thread
                                            functions, else one thread
threads change processor if needed          never                      never
sizes of caches          read from /sys     assumed, as on an ordinary processor
folder of compiled code  ~/.cache/elman     ~/Library/Caches/elman     %LOCALAPPDATA%\\elman\\Cache
owner of the folder      checked            checked                    not checked: private to the user anyway
executable memory        tried out          tried out                  assumed to be allowed
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

from elman.torch_private import LIBRARY


@cache
def parallel() -> Any:
    """Returns GOMP_parallel(function, data, threads, flags) of the OpenMP that torch has loaded, or None."""
    try:
        library = ctypes.CDLL(LIBRARY)
        run, _, _ = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (AttributeError, OSError):
        return None
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    run.restype = None
    return run


class Functions(NamedTuple):
    """Addresses of the functions of OpenMP and the system that compiled code calls; 0 for a missing function."""

    team: int = 0  # returns the number of threads in the parallel region
    number: int = 0  # returns this thread's number in the region, from 0
    give_way: int = 0  # lets another thread have the processor
    processor: int = 0  # returns the number of the processor that runs this thread
    mask: int = 0  # reads the set of processors that may run this thread
    set_mask: int = 0  # changes the set of processors that may run this thread


@cache
def functions() -> Functions:
    of_team = [_address(LIBRARY, name) for name in ("omp_get_num_threads", "omp_get_thread_num")]
    names = ("sched_yield", "sched_getcpu", "sched_getaffinity", "sched_setaffinity")
    return Functions(*of_team, *[_address(None, name) for name in names])


def _address(library: str | None, name: str) -> int:
    """Returns the address of a function in a library, or in this process if `library` is None; 0 if it has none."""
    try:
        return ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0


def cache_bytes(level: int) -> int:
    """Returns the size in bytes of a core's data cache of level 1 or 2.

    Linux reports it; on other systems it is that of an ordinary processor.
    """
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
    """Returns why memory that was written to may not be executed, as on some hardened systems, or None if it may."""
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
    """Returns the folder for compiled code: the user's cache folder, or the one that ELMAN_CACHE names.

    Returns None if ELMAN_CACHE is "off". Raises RuntimeError if the folder is in a home directory that is not
    known: otherwise the path would keep its `~`, and a folder of that name would be made.
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
    """Returns why somebody besides the user could write to a file or folder, or None if nobody could."""
    if os.name != "posix":
        return None
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, and this is user {os.geteuid()}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others than its owner may write to it (mode {stat.S_IMODE(status.st_mode):o}); chmod go-w it"
    return None
