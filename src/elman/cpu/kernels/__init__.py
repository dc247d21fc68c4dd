"""The kernels, which are made from a cell's schedule. Each is a function of one table of 64-bit words.

arrays.py       the arrays that they work on, by name
plan.py         where every value of a schedule lies
product.py      a product of matrices in parts: panels, and tiles of rows
recurrence.py   the time loop: the cell's products and equations, forward and backward
packing.py      copies: a matrix into panels, rows to other places, sums of rows
"""
