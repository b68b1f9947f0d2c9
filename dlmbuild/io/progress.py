"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then by whoever works; drawn by whoever watches."""

    def __call__(self, what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
        """`what` is being done; `done` of `total` units of it are (0 of 0: unknown); `numbers` are shown beside."""
        ...


def silent(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
    """The Progress of nobody watching."""
