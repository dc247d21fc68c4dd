"""The one exception that the command line turns into a sentence."""

from __future__ import annotations


class InputError(ValueError):
    """Something a person gave cannot be used: one sentence with what, the value, and the remedy."""
