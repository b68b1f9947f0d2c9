"""A small archive of objects, and files to put into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.io.statcache import StatCache
from dlmbuild.store.objects import Objects


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects", StatCache(tmp_path / "stat.sqlite"))


@pytest.fixture
def put(objects: Objects, tmp_path: Path) -> Callable[[str], str]:
    """`put("text")` makes an object of a text and returns its digest."""

    def put(text: str) -> str:
        file = tmp_path / "new"
        file.write_text(text)
        return objects.put(file)

    return put
