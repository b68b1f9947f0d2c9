"""Fixtures for tests that go through the command line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.workshop import Workshop, empty_workshop

# Else each of the thousands of starts compiles our modules, and only ours, again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Whoever is started in the background ignores Ctrl-C, and so do its children, which are tested to end by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Workers beside one another share the cores out. Builds take as many threads as they see cores, and where two workers'
# threads took turns on the same ones, each would mostly wait for the others: the whole took a third longer.
if hasattr(os, "sched_setaffinity") and (worker := os.environ.get("PYTEST_XDIST_WORKER")):
    cores = sorted(os.sched_getaffinity(0))
    number, workers = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.sched_setaffinity(0, cores[number % len(cores) :: workers])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that build come first, the one that trains the handbook before all, so that no worker ends alone."""
    here = Path(__file__).parent
    items.sort(key=lambda item: (item.path.name != "test_main_job.py", item.path.parent != here))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """An empty project: a dodo.py and no documents."""
    return empty_workshop(tmp_path)


@pytest.fixture(scope="session")
def _built_once(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    from tests.tiny import make_tiny_base

    built = empty_workshop(tmp_path_factory.mktemp("built"))
    make_tiny_base(built.folder / "base")
    built.document("tower")
    built.doit("export:Q4_K_M")
    return built.kept()


@pytest.fixture
def built(_built_once: Workshop) -> Workshop:
    """A project with one document on a small random model, built to Q4_K_M; every test finds it as it was built."""
    return _built_once.again()
