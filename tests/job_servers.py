"""Processes that have loaded torch, one for each size of a thread pool, which all builds of these tests fork jobs from.

Most builds here are of tiny models, and would take most of their time to load it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from dlmbuild.hardware.detect import this_machine
from dlmbuild.jobs.environment import job_environment, may_fork
from dlmbuild.jobs.forkserver import INHERITED, loading_key, served


class Shared(NamedTuple):
    """What a build is given to use them."""

    environment: dict[str, str]
    fds: tuple[int, ...]


@cache
def shared() -> Shared:
    """They end with this process and the builds that it started."""
    if not may_fork():
        return Shared({}, ())
    machine = this_machine()
    offered = {}
    for threads in {machine.threads, machine.cores}:
        environment = without_pytest(job_environment(threads=threads, network=False))
        fd = served(environment)[1].detach()
        offered[fd] = loading_key(environment)
    return Shared({INHERITED: ",".join(f"{fd}:{key}" for fd, key in offered.items())}, tuple(offered))


def without_pytest(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables by which pytest tells which test it is at."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
