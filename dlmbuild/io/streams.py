"""The standard streams, however a shell hands them over: closed, too narrow for our letters, or read by `head`."""

from __future__ import annotations

import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")

BROKEN_PIPE = 141
"""Exit code of whoever writes to a reader that has gone: 128 and SIGPIPE, as a shell shows it for other programs."""


def mend_streams() -> None:
    """Make the three streams usable: what is closed reads and writes nothing, what cannot be shown becomes `?`."""
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)  # otherwise the next file that is opened gets the number, and the output with it
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def write_nowhere(*numbers: int) -> None:
    """From here on what is written to standard output (1) or standard error (2) is dropped: nobody can read it."""
    for number in numbers:
        _to_nowhere(number)


def _to_nowhere(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
