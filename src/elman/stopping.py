"""What Ctrl-C and SIGTERM do to the command line at any moment: the program ends at once and says nothing.

An exception would not do that. While modules are imported, libraries catch it, print it, or turn it into another one.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

unfinished: set[str] = set()  # temporary files that this process is writing


def at_once() -> None:
    """Lets Ctrl-C and SIGTERM end the program from now on, with status 130 and 143.

    This is so in the background of a shell script, too, where programs begin with Ctrl-C ignored: `kill -INT` is
    meant for this program.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number: int, frame: Any) -> None:
    for path in tuple(unfinished):
        with suppress(OSError):
            os.unlink(path)
    os._exit(128 + number)
