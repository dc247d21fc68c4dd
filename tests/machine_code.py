"""LLVM's work, done once for all mutants: most of the kernels of a mutant are what they are without it.

The library keeps machine code for as long as not a byte of its sources changes, since it would have to write the text
of a module to know it, and every mutant changes some.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any


def share() -> None:
    """Lets modules of the same text have the same machine code, in all processes that share a folder; see conftest.py."""
    from elman.cpu.codegen import llvm

    folder, make = Path(os.environ["MACHINE_CODE"]), llvm.machine_code
    compiler = Path(llvm.__file__).read_text(encoding="utf-8")

    def machine_code(module: Any) -> bytes:
        key = repr((str(module), compiler, llvm.versions(), llvm.target()))
        path = folder / hashlib.sha256(key.encode()).hexdigest()
        if path.exists():
            return path.read_bytes()
        code = make(module)
        descriptor, whole = tempfile.mkstemp(dir=folder)
        with open(descriptor, "wb") as file:
            file.write(code)
        os.replace(whole, path)  # whoever looks meanwhile finds all of it, or nothing
        return code

    llvm.machine_code = machine_code
