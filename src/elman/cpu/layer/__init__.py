"""A layer: its passes, as scripts.

kernel_tasks.py    the recurrence as tasks of a script
large_products.py  the products outside the recurrence: the input's share, gradients of x and of weights
directions.py      what all scripts of a layer share: what each direction is given, and what its kernels read
inference.py       the script of a pass without gradients
forward.py         the script of a pass that keeps what backward needs
backward.py        the script of the gradients
form.py            what a script depends on; scripts that were written are kept, and fitted to other sizes
passes.py          from a call's tensors to the results
short_calls.py     inference again and again, with little around it
rows.py            sequences of different lengths as packed rows
readable.py        tensors as the kernels can read them
"""
