"""The exception that the command line prints as a sentence, not as a traceback, and the category of a warning."""

from __future__ import annotations


class InputError(ValueError):
    """User input cannot be used. The message is one sentence: what is wrong, the value, and the remedy."""

    def __init__(self, message: str, elsewhere: str | None = None):
        """elsewhere: the sentence of a command that does not train, if the message advises an option of training."""
        super().__init__(message)
        self.elsewhere = elsewhere or message


class SlowCellWarning(UserWarning):
    """A cell cannot be made into kernels, and runs many times slower in plain PyTorch. It is said once for each cell."""
