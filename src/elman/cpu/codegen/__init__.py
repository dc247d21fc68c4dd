"""From Python to machine code.

formats.py      how a number lies in memory, and what is computed with it
program.py      programs over vectors, written in Python, as LLVM's intermediate form
functions.py    exp, tanh, sigmoid and their kind, on vectors
llvm.py         LLVM: from a module's text to functions that can be called
code_cache.py   compiled once, kept by the process, and on disk
"""
