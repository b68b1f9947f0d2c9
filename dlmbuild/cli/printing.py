"""What `doit`, which knows no streams but sound ones, would end with a traceback in commands of ours."""

from __future__ import annotations

import os
import sys
from typing import Any

from dlmbuild.errors import DlmError
from dlmbuild.io.streams import BROKEN_PIPE, mend_streams, write_nowhere


class Printing:
    """In front of the class of a command for doit: its output may be closed, have lost its reader, or find no room."""

    outstream: Any = None

    def parse_execute(self, words: list[str]) -> Any:
        mend_streams()
        self.outstream = self.outstream or sys.stdout
        try:
            code = super().parse_execute(words)  # type: ignore[misc]
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            write_nowhere(1, 2)
            return BROKEN_PIPE
        except DlmError as error:
            print(error, file=sys.stderr)
            return 1 if error.exit_code == 1 else 3
        except OSError as error:
            from dlmbuild.cli import in_words

            if error.filename is None:
                write_nowhere(1)
            elif os.environ.get("DLM_VERBOSE"):
                raise
            print(in_words(error), file=sys.stderr)
            return 1
