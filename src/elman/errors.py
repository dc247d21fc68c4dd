"""The exception that the command line prints as a sentence, not as a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """User input cannot be used. The message is one sentence: what is wrong, the value, and the remedy."""
