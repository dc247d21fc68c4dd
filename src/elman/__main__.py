"""Runs the command line: `python -m elman` does what `elman` does."""

from elman.cli import main

main()
