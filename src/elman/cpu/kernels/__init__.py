"""The kernels: compiled functions that do the arithmetic of a layer. The time loop is made from a cell's schedule.

A kernel is a function of one table of 64-bit words. The tiles of product.py are functions of several arguments, which
kernels call.

product.py      a matrix product in parts: tiles of rows times panels of the matrix
recurrence.py   the time loop: the cell's products and equations, forward and backward
packing.py      copies of a matrix into panels, copies of rows, sums of rows
"""
