"""The child's side of a job: `python -m dlmbuild.jobs spec.json`."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from dlmbuild.jobs.work import work


def main(spec_file: str) -> int:
    processes = json.loads(Path(spec_file).read_bytes())["processes"]
    if processes == 1:
        threading.Thread(target=_die_with_parent, daemon=True).start()
        return work(spec_file)
    from dlmbuild.jobs.ranks import Ranks

    ranks = Ranks(spec_file, processes)
    threading.Thread(target=_die_with_parent, daemon=True).start()  # after they are forked
    return ranks.wait()


def _die_with_parent() -> None:
    # The build holds the other end of this pipe; the read returns when the build ends, even by SIGKILL.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Native libraries may crash while an interpreter takes itself apart; everything is written and closed by now.
    os._exit(code)
