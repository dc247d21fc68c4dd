"""Looking inside a network: its gates and states over time, how far back gradients reach, and a page that shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.explain.pages import Page as Page
    from elman.explain.pages import page as page

__all__ = ["Page", "page"]


def __getattr__(name: str) -> Any:
    # When it is first used: `elman.trace` lies here, too, and needs neither the tasks nor their readers.
    if name in __all__:
        from elman.explain import pages

        return getattr(pages, name)
    raise AttributeError(f"module 'elman.explain' has no attribute {name!r}")
