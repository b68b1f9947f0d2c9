"""What older versions of the format wrote in another way, read as the newest has it."""

from __future__ import annotations

from typing import Any

from dlmbuild.doc.block import Block, Path
from dlmbuild.doc.mistakes import Mistakes

NEWEST_VERSION = 16
"""The newest version of the format that this program reads; it reads all older ones as well."""

ESCAPES_SINCE = 16
"""The version from which on a backslash makes text of a line that would be structure."""

SINCE: dict[Path, int] = {
    ("evaluate",): 16,
    ("export", "imatrix"): 16,
    ("export", "mixes"): 16,
    ("training", "cpt", "weight"): 16,
    ("training", "layers"): 16,
    ("training", "retention"): 16,
    ("training", "replay"): 16,
    ("training", "rslora"): 16,
    ("training", "validation"): 16,
    ("training", "early_stopping"): 16,
    ("training", "incremental"): 16,
    ("training", "wordings"): 16,
}
"""Key → the version that has it first, for those that older readers would not know."""

VALUES_SINCE: dict[tuple[tuple[str, ...], str], int] = {
    (("training", "preference", "method"), "kto"): 16,
}
"""Key and value → the version that has the value first."""

TO_HAVE_IT = "take it out, run `dlm migrate --write`, and write it again"
"""What to do about one that the document's version does not have."""

_DPO = {
    "enabled": ("enabled",),
    "beta": ("hyperparams", "beta"),
    "loss_type": ("loss_type",),
    "learning_rate": ("hyperparams", "learning_rate"),
    "num_epochs": ("hyperparams", "num_epochs"),
    "reference": ("reference",),
}
"""Key of version 1's `training.dpo` → its place in `training.preference`."""
HYPERPARAMS = frozenset(key for key, place in _DPO.items() if len(place) > 1)
"""The keys of `training.dpo` that have a block of their own in `training.preference`."""


def upgrade(block: Block, mistakes: Mistakes) -> None:
    """Move what version 1 says under `training.dpo` to `training.preference`; its marks come along."""
    training = block.value.get("training")
    if block.value.get("dlm_version") != 1 or not isinstance(training, dict) or "dpo" not in training:
        return
    old: Path = ("training", "dpo")
    if "preference" in training:
        what, why = "training.dpo beside training.preference", "version 2 renamed one into the other"
        mistakes.add(*block.marks[old].key, what, why=why, do="delete one of them")
    given = training.pop("dpo")
    new: Path = ("training", "preference")
    block.marks[new] = block.marks[old]
    if old in block.spoilt:
        block.spoilt.add(new)
    if not isinstance(given, dict):
        training["preference"] = given
        return
    preference: dict[str, Any] = {}
    for key, value in given.items():
        place = _DPO.get(key)
        if place is None:
            block.refuse_key((*old, key), _DPO)
            continue
        home = preference
        for part in place[:-1]:
            home = home.setdefault(part, {})
            block.marks.setdefault((*new, part), block.marks[(*old, key)])
        home[place[-1]] = "pre_adapter" if value == "pre_dpo_adapter" else value
        block.marks[(*new, *place)] = block.marks[(*old, key)]
        if (*old, key) in block.spoilt:
            block.spoilt.add((*new, *place))
    training["preference"] = preference
