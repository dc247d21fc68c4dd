"""Runs the notebooks of examples/ from top to bottom: python tests/notebooks.py stores what they show in them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def execute(path: Path) -> NotebookNode:
    """Returns the notebook with new outputs. A cell that fails raises CellExecutionError.

    The kernel is a process of its own, in an empty folder. It talks through files in it instead of ports, and nothing of
    Jupyter's in the user's folders is read or written.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as folder:
        own = dict.fromkeys(("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"), folder)
        environment = os.environ | own | {"OMP_NUM_THREADS": "1"}
        environment.pop("MPLBACKEND", None)  # a notebook has one of its own, which draws between the cells
        client = NotebookClient(notebook, timeout=120, record_timing=False, resources={"metadata": {"path": folder}})
        kernel = client.create_kernel_manager()
        kernel.transport, kernel.connection_file = "ipc", f"{folder}/kernel.json"
        client.execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}  # and not the version of this Python
    return notebook


if __name__ == "__main__":
    for path in NOTEBOOKS:
        nbformat.write(execute(path), path)
