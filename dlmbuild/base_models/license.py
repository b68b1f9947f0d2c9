"""Licences that their makers want accepted before a base is used.

Accepting is a sentence that a person writes once: `<key>=<licence>`, for example `llama-3.2-1b=LicenseRef-Llama-3.2`.
It names the licence, so that a base which comes under another one asks again, and it is plain text, so that it can
stand in the environment of a build machine and in dlm.lock.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from dlmbuild.base_models.registry import Row
from dlmbuild.errors import LicenceError

ACCEPT_VARIABLE = "DLM_ACCEPT_LICENSE"
"""Acceptances, separated by commas."""


def acceptance_of(row: Row) -> str:
    """The sentence that accepts the licence of a base."""
    return f"{row.key}={row.spdx}"


def accepted_by_environment(environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """The acceptances in $DLM_ACCEPT_LICENSE."""
    return frozenset(filter(None, map(str.strip, environment.get(ACCEPT_VARIABLE, "").split(","))))


def require_acceptance(row: Row, accepted: Collection[str]) -> None:
    """Refuse a gated base unless its acceptance is among `accepted`. Raises LicenceError with the page to read."""
    if row.gated and acceptance_of(row) not in accepted:
        raise LicenceError(
            f"the licence of base model {row.key!r} has not been accepted",
            why=f"{row.id} comes under {row.spdx}: {row.license}",
            do=f"read it and, if you accept it, set {ACCEPT_VARIABLE}={acceptance_of(row)} "
            f"(the hub asks for the same at https://huggingface.co/{row.id})",
        )
