"""What each finished step was made from: records/<aa>/<key>.json.

The key is the digest of a record's input half (rule, inputs, parameters), so a step that is about to run looks its key
up first: a record with its objects present means that the work has been done before, and is restored instead of
repeated. Saving the record is a step's one commit point; the files in the layout are derived from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import JSON, readable_json, sha256_json


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The input half of a record: all that decides what a step makes."""

    rule: str
    """Name and version of the rule, for example "dataset/1"; a new version rebuilds what the old one made."""
    inputs: Mapping[str, str]
    """Role → SHA-256 of the file."""
    params: Mapping[str, JSON]
    """Settings and pins that change the result."""

    @property
    def key(self) -> str:
        return sha256_json({"rule": self.rule, "inputs": dict(self.inputs), "params": dict(self.params)})


@dataclass(frozen=True, slots=True)
class Record:
    """A finished step."""

    ingredients: Ingredients
    outputs: Mapping[str, str]
    """Role or relative name → SHA-256 of the file."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Counts and pins worth knowing that do not decide the result. Never a time, a path or a host."""

    def as_data(self) -> dict[str, Any]:
        made_from = self.ingredients
        return {
            "rule": made_from.rule,
            "inputs": dict(made_from.inputs),
            "params": dict(made_from.params),
            "outputs": dict(self.outputs),
            "notes": dict(self.notes),
        }


class Records:
    """The record folder of one home, and folders with further records, which are only read."""

    def __init__(self, root: Path, *more: Path) -> None:
        self._roots = (root, *more)

    def path(self, key: str) -> Path:
        """Where the record with this key lies, or would lie."""
        paths = [root / key[:2] / f"{key}.json" for root in self._roots]
        return next(filter(Path.exists, paths), paths[0])

    def load(self, key: str) -> Record | None:
        """The record with this key; None where there is none, or none that can be believed."""
        return next(filter(None, (self._load(root, key) for root in self._roots)), None)

    def _load(self, root: Path, key: str) -> Record | None:
        try:
            data = json.loads((root / key[:2] / f"{key}.json").read_bytes())
            ingredients = Ingredients(data["rule"], data["inputs"], data["params"])
            record = Record(ingredients, dict(data["outputs"]), dict(data["notes"]))
            intact = ingredients.key == key and data["check"] == sha256_json([key, data["outputs"], data["notes"]])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return record if intact and all(map(_is_plain, record.outputs)) else None

    def every(self) -> Iterator[Record]:
        """Those that can be believed, by their keys."""
        keys = sorted({path.stem for root in self._roots for path in root.glob("*/*.json")})
        return filter(None, map(self.load, keys))

    def save(self, record: Record) -> None:
        key, data = record.ingredients.key, record.as_data()
        # The check guards the half that the key does not cover against a damaged disk (not against an attacker).
        data["check"] = sha256_json([key, data["outputs"], data["notes"]])
        write_atomic(self._roots[0] / key[:2] / f"{key}.json", readable_json(data))


def _is_plain(name: str) -> bool:
    # Names of outputs become paths below the layout; none may lead out of it.
    return Path(name).name == name and name not in ("", "..") and "\0" not in name
