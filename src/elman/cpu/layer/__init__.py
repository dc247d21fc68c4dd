"""The passes over a layer, written as scripts (scripts/script.py).

kernel_tasks.py    makes the tasks of a script that run the recurrence
large_products.py  makes the products outside the recurrence: the input's share, the gradients of x and of the weights
directions.py      declares what the scripts of all passes share: the arrays of each direction
inference.py       writes the script of a pass without gradients
forward.py         writes the script of a pass that keeps what backward needs
backward.py        writes the script of the gradients
form.py            says what a script depends on; keeps written scripts, and fits them to other sizes
passes.py          goes from the tensors of a call to its results
short_calls.py     runs ordinary inference again and again, with little work around the script
rows.py            turns sequences of different lengths into packed rows
readable.py        makes tensors that the kernels can read
"""
