"""Which adapters a section trains, where a document names several.

The rule is that of the public format: a section with a name behind its type trains that adapter. Without a name, prose
trains all of them, and questions and preferences train the one that is declared first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

NO_MIX_OF_DORA = "DoRA sets the length of rows: a weighted sum of such adapters is none", "mix adapters of plain LoRA"
"""Why such an adapter is in no mix, and what to do."""

ELSEWHERE = "elsewhere"
"""The type of what stands in the place of a section that trains other adapters."""


def trains(kind: str, adapter: str | None, named: Sequence[str]) -> Sequence[str]:
    """The adapters that a section of a type trains; `adapter` is what its fence names, `named` all that there are."""
    if adapter is not None:
        return (adapter,)
    return named if kind == "prose" else named[:1]


def routed(
    sections: Sequence[Mapping[str, Any]], named: Sequence[str], wanted: Collection[str]
) -> list[dict[str, Any]]:
    """Sections (as in document.json) as the adapters `wanted` see them: each in its place, the others' as `ELSEWHERE`.

    How a section came to them leaves no trace.
    """
    found = []
    for section in sections:
        said = {key: value for key, value in section.items() if key != "adapter"}
        mine = not set(trains(section["type"], section.get("adapter"), named)).isdisjoint(wanted)
        found.append(said if mine else {"type": ELSEWHERE})
    return found
