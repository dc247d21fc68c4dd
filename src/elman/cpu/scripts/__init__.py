"""Which kernels run on which tables, in which order, on how many threads.

script.py       a pass as a script: stages of tasks, written once and run many times
tape.py         sizes that remember what was done with them, so that a script fits other sizes
team.py         what each thread does with a script
threads.py      the threads of torch, and how work is divided among them
memory.py       new tensors for results, a workspace for everything else
"""
