"""Ctrl-C and SIGTERM end a build with one line instead of a page of doit's internals.

Imported before anything else of ours, since Ctrl-C may come while the rest is being imported. What comes before a
dodo.py is read, while doit itself is imported, is doit's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

TERMINATED = 143
"""Exit code after SIGTERM: 128 and the signal, as a shell shows it for other programs."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds everything as Ctrl-C does."""


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    how = "terminated" if issubclass(kind, Terminated) else "interrupted"
    sys.stderr.write(f"\n{how}; what was finished is kept, `doit` carries on from there\n")
    if issubclass(kind, Terminated):
        end_at_once()


def end_at_once() -> NoReturn:
    """End this process as terminated, without waiting for its threads: their jobs end with it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(TERMINATED)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def end_quietly() -> None:
    """Have both signals end this process with a line."""
    sys.excepthook = _tell
    with contextlib.suppress(ValueError):  # not in the main thread: somebody embeds doit and handles signals
        signal.signal(signal.SIGTERM, _terminate)


if sys.excepthook is sys.__excepthook__:  # `dlm` has one of its own
    sys.excepthook = _tell
