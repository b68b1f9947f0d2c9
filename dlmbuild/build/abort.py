"""Ctrl-C and SIGTERM end a build with one line instead of a page of doit's internals.

Imported before anything else of ours, since Ctrl-C may come while the rest is being imported. What comes before a
dodo.py is read, while doit itself is imported, is doit's.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from types import FrameType, TracebackType


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("\ninterrupted; what was finished is kept, `doit` carries on from there\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def end_quietly() -> None:
    """Have both signals end this process with a line."""
    sys.excepthook = _tell
    with contextlib.suppress(ValueError):  # not in the main thread: somebody embeds doit and handles signals
        signal.signal(signal.SIGTERM, _terminate)


if sys.excepthook is sys.__excepthook__:  # `dlm` has one of its own
    sys.excepthook = _tell
