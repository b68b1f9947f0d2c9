"""A process that has loaded what several jobs load, and forks one process for each of them.

Loading torch and what stands on it takes longer than most steps of a small document; a build pays for it once. Nothing
has been computed in the process that forks: what a job computes does not depend on the jobs before it, and a job that
dies or fills the memory takes nothing along. Only where no accelerator is: their drivers do not survive a fork.
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods describes the same idea.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn

from dlmbuild.io.digest import sha256_json

_LARGEST_REQUEST = 65_536

INHERITED = "DLM_FORKSERVER"
"""Servers that many builds share, as the jobs of make's sub-makes share one job server: whoever starts the builds keeps
them, and lets each build inherit their sockets. FILE DESCRIPTOR:`loading_key`, separated by commas."""
_OURS = "DLM_"
_OF_A_SHELL = ("_", "PWD", "OLDPWD", "SHLVL")

_lock = threading.Lock()
_servers: dict[str, tuple[subprocess.Popen[bytes] | None, socket.socket]] = {}
"""By `loading_key`. They end when this process does, however that is: its end of the socket is then closed."""


@atexit.register
def _end_servers() -> None:
    # Waited for, so that what a build took of the processor includes what its jobs took.
    for key in list(_servers):
        _end(key)


def _end(key: str) -> None:
    process, control = _servers.pop(key)
    control.close()
    if process:
        try:
            process.wait()
        except KeyboardInterrupt:  # it may be loading torch, and notices only then
            process.terminate()
            process.wait()


class Forked:
    """A job in a forked process, as much of it as `subprocess.Popen` has and jobs need."""

    def __init__(
        self, server: socket.socket, spec: Path, modules: Sequence[str], log: BinaryIO, environment: Mapping[str, str]
    ) -> None:
        """Raises OSError if there is no server any more."""
        its_stdin, stdin = os.pipe()
        stdout, its_stdout = os.pipe()
        self.stdin, self.stdout = os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb")
        told, its_told = os.pipe()
        self._told = os.fdopen(told, "rb", buffering=0)
        self.returncode: int | None = None
        try:
            try:
                ours = {name: value for name, value in environment.items() if name.startswith(_OURS)}
                request = json.dumps([str(spec), modules, str(Path.cwd()), ours]).encode()
                socket.send_fds(server, [request], [its_stdin, its_stdout, log.fileno(), its_told])
            finally:
                for fd in (its_stdin, its_stdout, its_told):
                    os.close(fd)
            self.pid = int(self._told.readline() or 0)
            if not self.pid:
                raise ChildProcessError("the process that jobs are forked from has died")
        except OSError:
            for file in (self.stdin, self.stdout, self._told):
                file.close()
            raise

    def poll(self) -> int | None:
        """The exit code of a process that has ended."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        """Wait for the end, and return the exit code: minus the number of the signal that ended it."""
        if self.returncode is None:
            # Without a word the server was killed; its processes end with the pipe that this one holds.
            self.returncode = int(self._told.readline() or -signal.SIGKILL)
        self._told.close()
        return self.returncode


def fork(spec: Path, modules: Sequence[str], log: BinaryIO, environment: Mapping[str, str]) -> Forked | None:
    """Run the job of a specification in a process that has loaded `modules`, and nothing else; None if it cannot be."""
    key = loading_key(environment)
    with _lock:
        for _ in range(2):
            if key not in _servers:
                _servers[key] = _inherited(key) or served(environment)
            try:
                return Forked(_servers[key][1], spec, modules, log, environment)
            except OSError:  # it was killed
                _end(key)
    return None


def loading_key(environment: Mapping[str, str]) -> str:
    """What libraries may see of an environment while they are loaded, as 64 hex digits.

    Left out are our own variables, which each job is told, and those that every shell sets anew.
    """
    seen = {name: value for name, value in environment.items() if name not in _OF_A_SHELL}
    return sha256_json({name: value for name, value in seen.items() if not name.startswith(_OURS)})


def _inherited(key: str) -> tuple[None, socket.socket] | None:
    for offered in os.environ.get(INHERITED, "").split(","):
        fd, _, its_key = offered.partition(":")
        if its_key == key:
            with contextlib.suppress(OSError, ValueError):  # whoever started this build did not let it inherit that
                found = socket.socket(fileno=os.dup(int(fd)))
                if (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
                    return None, found
                found.close()
    return None


def served(environment: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a server with an environment; it ends when the last copy of the socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dlmbuild.jobs.forkserver"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    return process, ours


def serve() -> NoReturn:
    """Fork a process for each request on standard input, a socket; tell its number and then its exit code."""
    from dlmbuild.jobs.__main__ import main

    control = socket.socket(fileno=0)
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    children: dict[int, int] = {}
    while True:
        ready = select.select([control, wake], [], [])[0]
        if wake in ready:
            wake.recv(4096)
            _reap(children)
        if control not in ready:
            continue
        request, fds, _, _ = socket.recv_fds(control, _LARGEST_REQUEST, 4)
        if not request:
            os._exit(0)  # at once: what was loaded takes long to take itself apart
        spec, modules, folder, ours = json.loads(request)
        for module in modules:
            with contextlib.suppress(Exception):  # the job finds the same out, and has a log to say it in
                importlib.import_module(module)
        told = fds[3]
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.setsid()
                os.chdir(folder)
                for name in [name for name in os.environ if name.startswith(_OURS)]:
                    del os.environ[name]
                os.environ.update(ours)
                control.close()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, fd in enumerate(fds[:3]):
                    os.dup2(fd, number)
                for fd in (*fds, *children.values()):
                    os.close(fd)
                code = main(spec)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        children[pid] = told
        for fd in fds[:3]:
            os.close(fd)
        _tell(told, pid)


def _reap(children: dict[int, int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = children.pop(pid)
        _tell(told, os.waitstatus_to_exitcode(status))
        os.close(told)


def _tell(fd: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the build is gone
        os.write(fd, b"%d\n" % number)


if __name__ == "__main__":
    serve()
