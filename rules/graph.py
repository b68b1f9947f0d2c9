"""The whole graph of a project, made from its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.doc.names import RUNTIMES

from . import (
    base,
    check,
    dataset,
    evaluate,
    export,
    gguf,
    hub,
    merge,
    ollama,
    pack,
    parity,
    plan,
    prefer,
    quantize,
    retention,
    runtime,
    smoke,
    train,
)

STAGES = (
    check,
    base,
    plan,
    dataset,
    retention,
    train,
    prefer,
    gguf,
    quantize,
    parity,
    merge,
    smoke,
    export,
    hub,
    runtime,
    ollama,
    pack,
    evaluate,
)
"""In the order in which they follow each other."""
_OF_A_BASE = (base, retention, gguf, quantize)


def graph(found: Project) -> Iterator[Any]:
    """Every task of every stage, as doit takes them."""
    refused = list(check.refused(found))
    for stage in STAGES:
        verb = stage.__name__.rpartition(".")[2]
        yield {"basename": verb, "name": None, "doc": stage.tasks.__doc__}
        tasks = list(stage.tasks(found))
        named = [task for task in tasks if isinstance(task, dict)]
        taken = {task["name"] for task in named}
        if stage is not check:  # after the others: doit stops at the first that fails
            quantised = found.quantisations if stage in (merge, smoke, export, hub, ollama) else ()
            blocked = _blocked(refused, RUNTIMES if stage is runtime else quantised)
            named += [task for task in blocked if task["name"] not in taken]
        for task in named:
            if stage not in (check, *_OF_A_BASE) and "meta" in task:  # what a document's own steps make
                # Its check before all else, the base as well: nothing is fetched for a document with mistakes.
                task["task_dep"] = [f"check:{task['name'].partition(':')[0]}"]
            yield {"basename": verb, **task}
        yield from (task for task in tasks if not isinstance(task, dict))


def _blocked(refused: list[check.Refusal], variants: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Tasks of what is refused: whatever is asked of it ends at its check, which says what is wrong."""
    for refusal in refused:
        for ending in ("", *(f":{variant}" for variant in variants)):
            yield {
                "name": refusal.name + ending,
                "doc": refusal.doc,
                "actions": None,
                "task_dep": [f"check:{refusal.name}"],
            }
