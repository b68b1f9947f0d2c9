"""A job by several processes of this machine that work on the same thing, each on its share: torch.distributed's ranks.

torch.multiprocessing starts and watches them; the end of one that fails is the end of all, and none outlives the job.
They meet through a file and talk over the loopback interface, so that nothing of a training listens on a network.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from dlmbuild.jobs.environment import may_fork
from dlmbuild.jobs.work import work


class Ranks:
    """The processes of one job, begun when this is made."""

    def __init__(self, spec_file: str, count: int) -> None:
        """Each does what the specification says, and knows by RANK and WORLD_SIZE which of how many it is."""
        import torch.multiprocessing as processes

        self._meeting = Path(spec_file).with_name(".ranks")
        loopback = "lo" if sys.platform == "linux" else "lo0"
        os.environ.update(dict.fromkeys(("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), loopback))
        how = "fork" if may_fork() else "spawn"
        arguments = (spec_file, count, str(self._meeting))
        self._begun: Any = processes.start_processes(_rank, arguments, nprocs=count, join=False, start_method=how)

    def wait(self) -> int:
        """Wait for the end of all; returns the exit code. What killed one of them kills this process as well."""
        import torch.multiprocessing as processes

        try:
            while not self._begun.join():
                pass
        except processes.ProcessExitedException:
            # Those that are ended because another one failed get SIGTERM.
            for code in (process.exitcode for process in self._begun.processes):
                if code < 0 and code != -signal.SIGTERM:
                    os.kill(os.getpid(), -code)
            return 1
        finally:
            self._meeting.unlink(missing_ok=True)
        return 0


def _rank(number: int, spec_file: str, count: int, meeting: str) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    os.environ.update(dict.fromkeys(("RANK", "LOCAL_RANK"), str(number)))
    os.environ.update(dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count)))
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(number)
    torch.distributed.init_process_group(
        "nccl" if gpus else "gloo", init_method=f"file://{meeting}", rank=number, world_size=count
    )
    code = work(spec_file)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
