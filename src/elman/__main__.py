"""Runs the command line: `python -m elman` does what `elman` does."""

import sys

from elman import stopping


def main() -> None:
    """Runs the command line in a process of its own, which Ctrl-C can end from now on."""
    stopping.at_once()  # before the imports, which take a second

    try:
        from elman.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "elman").startswith("elman"):
            raise
        need = f"elman: the commands need {error.name}, which is not installed; run: pip install 'elman[train]'"
        print(need, file=sys.stderr)
        sys.exit(2)
    main()


if __name__ == "__main__":
    main()
