"""Which kernels run on which tables, in which order, on how many threads.

script.py    a pass as a script: stages of tasks, written once and run many times
tape.py      sizes that record the arithmetic done with them, so that a script can be fitted to other sizes
team.py      the compiled code with which each thread runs a script
threads.py   the threads of torch, and how work is divided among them
memory.py    new tensors for results, and a workspace for all other arrays
"""
