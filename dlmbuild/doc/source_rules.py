"""What counts in a folder of sources: the patterns of the document, the defaults, and every `.dlm` on the way down.

Of a name, in this order: the document's `exclude`, the defaults, each `exclude` and then each ignore file from the top
down, the last word counts; only ignore files take something in again. `include` is the nearest one's. As in git, below
a folder that is left out nothing is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dlmbuild.doc.ignore import NEVER, compiled, excluded_by_default
from dlmbuild.io.digest import sha256_json

EXCLUDED, BY_DEFAULT, NOT_INCLUDED = "excluded", "excluded by default", "not included"
_JUDGED = 2
"""Bump it when the same patterns judge a name otherwise: judgements are remembered."""
_EVERYTHING = (("**/*",), ("**",), ("*",))


class Layer(NamedTuple):
    """Patterns, and how many characters of a path lie above where they stand."""

    patterns: tuple[str, ...]
    cut: int


class Rules(NamedTuple):
    """The rules of one folder. `id` is the same exactly where all else is."""

    id: str
    include: Layer
    exclude: tuple[Layer, ...]
    ignore: tuple[Layer, ...] = ()
    defaults: bool = True
    metadata: Mapping[str, str] = {}
    weights: Mapping[str, Mapping[str, float]] = {}

    @classmethod
    def of_document(cls, include: tuple[str, ...], exclude: tuple[str, ...]) -> Rules:
        """Those of a source's root, as its document has them."""
        return cls(sha256_json([_JUDGED, include, exclude]), Layer(include, 0), (Layer(exclude, 0),) if exclude else ())

    def below(self, config: Mapping[str, Any], digest: str, cut: int) -> Rules:
        """Those of a folder with a configuration of its own, as `read_config` gives it; `digest` names what it says."""
        weights = dict(self.weights)
        for key, values in config["weights"].items():
            weights[key] = {**weights.get(key, {}), **values}
        return Rules(
            sha256_json([self.id, digest, cut]),
            Layer(tuple(config["include"]), cut) if config["include"] else self.include,
            (*self.exclude, Layer(tuple(config["exclude"]), cut)) if config["exclude"] else self.exclude,
            (*self.ignore, Layer(tuple(config["ignore"]), cut)) if config["ignore"] else self.ignore,
            self.defaults if config["exclude_defaults"] is None else config["exclude_defaults"],
            {**self.metadata, **config["metadata"]},
            weights,
        )

    @property
    def weight(self) -> float:
        """How often a file here is trained: the product of the weights of the folder's metadata."""
        return math.prod((self.weights.get(key, {}).get(value, 1.0) for key, value in self.metadata.items()), start=1.0)

    def why_not(self, name: str, path: str, *, folder: bool) -> str:
        """Why a file or folder does not count; "" if it does. `path` begins below the root, a folder's ends in /."""
        why = ""
        if name in NEVER:
            return BY_DEFAULT
        if any(compiled(layer.patterns).verdict(path[layer.cut :]) for layer in self.exclude):
            why = EXCLUDED
        elif self.defaults and excluded_by_default(name, folder=folder):
            why = BY_DEFAULT
        for layer in self.ignore:
            verdict = compiled(layer.patterns).verdict(path[layer.cut :])
            if verdict is not None:
                why = EXCLUDED if verdict else ""
        if why or folder or self.include.patterns in _EVERYTHING:
            return why
        return "" if compiled(self.include.patterns).cover(path[self.include.cut :]) else NOT_INCLUDED
