"""From Python to machine code.

formats.py      how numbers are stored in memory, and in which format they are computed
program.py      programs over vectors, written in Python, which become LLVM's intermediate representation
functions.py    exp, tanh, sigmoid and the other elementwise functions, on vectors
llvm.py         LLVM: from a module's text to functions that can be called
code_cache.py   compiles each module once, and keeps the code in the process and on disk
"""
