"""Hidden states of packed rows, kept as files named by all that they depend on, and shared by documents.

A file holds the raw numbers and then the SHA-256 of them. Whoever finds it damaged computes it again, so nothing is
flushed to the disk and nothing is locked: a file appears whole, under a name that says what is in it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.io.digest import sha256_json
from dlmbuild.train.packing import Packed

_DIGEST = 32


def prune(folder: Path, most_bytes: int, most_days: float) -> list[tuple[Path, int]]:
    """The files that may go, with their sizes: those not used for so many days, and then the ones used longest ago."""
    files = sorted(((path, path.stat()) for path in folder.glob("*/*")), key=lambda file: file[1].st_mtime)
    left, oldest = sum(stat.st_size for _, stat in files), time.time() - most_days * 86_400
    found = []
    for path, stat in files:
        if stat.st_mtime >= oldest and left <= most_bytes:
            break
        left -= stat.st_size
        found.append((path, stat.st_size))
    return found


class States:
    """States of rows of one base below one layer; in memory where there is no `folder`."""

    def __init__(self, about: Mapping[str, Any], folder: Path | None) -> None:
        self._about, self._folder = sha256_json(about), folder
        self._width, self._dtype = about["width"], about["dtype"]
        self._kept: dict[str, Any] = {}

    def has(self, packed: Packed) -> bool:
        """Whether the states of packed rows are here, undamaged; then they count as used now."""
        if self._read(packed) is None:
            return False
        if path := self._path(packed):
            os.utime(path)
        return True

    def get(self, packed: Packed) -> Any:
        """The states of packed rows: a tensor of (tokens, width)."""
        found = self._read(packed)
        assert found is not None, "nobody else removes files while a training needs them"
        return found

    def put(self, packed: Packed, states: Any) -> None:
        """Keep the states of packed rows."""
        import torch

        path = self._path(packed)
        if path is None:
            self._kept[self._name(packed)] = states
            return
        numbers = states.contiguous().view(torch.uint8).numpy().tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{STAGING_SUFFIX}")
        temporary.write_bytes(numbers + hashlib.sha256(numbers).digest())
        temporary.replace(path)

    def _read(self, packed: Packed) -> Any:
        import torch

        path = self._path(packed)
        if path is None:
            return self._kept.get(self._name(packed))
        try:
            data = path.read_bytes()
        except OSError:
            return None
        numbers, digest = data[:-_DIGEST], data[-_DIGEST:]
        if hashlib.sha256(numbers).digest() != digest:
            return None
        flat = torch.frombuffer(bytearray(numbers), dtype=getattr(torch, self._dtype))
        tokens = len(packed.ids)
        return flat.view(tokens, self._width) if flat.numel() == tokens * self._width else None

    def _name(self, packed: Packed) -> str:
        return sha256_json([self._about, packed.ids, packed.places])

    def _path(self, packed: Packed) -> Path | None:
        if self._folder is None:
            return None
        name = self._name(packed)
        return self._folder / name[:2] / name
