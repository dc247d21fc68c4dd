"""Runs the command line: `python -m elman` does what `elman` does."""

from elman import stopping


def main() -> None:
    """Runs the command line in a process of its own, which Ctrl-C can end from now on."""
    stopping.at_once()  # before the imports, which take a second

    from elman.cli import main

    main()


if __name__ == "__main__":
    main()
