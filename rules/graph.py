"""The whole graph of a project, made from its stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from importlib import import_module
from typing import Any

from dlmbuild.build.project import Document, Project
from dlmbuild.doc.names import RUNTIMES, VERBS

from .check import Refusal, refused

_OF_A_BASE = ("base", "retention", "gguf", "quantize")
_BY_QUANTISATION = ("merge", "smoke", "export", "hub", "ollama")


def graph(found: Project) -> Iterator[Any]:
    """Every task of every stage, as doit takes them."""
    refusals = list(refused(found))
    variants = {"runtime": RUNTIMES, **dict.fromkeys(_BY_QUANTISATION, found.quantisations)}
    for verb in VERBS:
        stage = import_module(f"dlmbuild.rules.{verb}")
        yield {"basename": verb, "name": None, "doc": stage.tasks.__doc__}
        tasks = list(stage.tasks(found))
        named = [task for task in tasks if isinstance(task, dict)]
        taken = {task["name"] for task in named}
        if verb != "check":  # after the others: doit stops at the first that fails
            named += [task for task in _blocked(refusals, variants.get(verb, ())) if task["name"] not in taken]
        named += _of_all_adapters(named, found.documents, verb)
        for task in named:
            if verb not in ("check", *_OF_A_BASE) and "meta" in task:  # what a document's own steps make
                # Its check before all else, the base as well: nothing is fetched for a document with mistakes.
                task["task_dep"] = [f"check:{task['name'].partition(':')[0]}"]
            yield {"basename": verb, **task}
        yield from (task for task in tasks if not isinstance(task, dict))


def _of_all_adapters(tasks: list[dict[str, Any]], documents: Sequence[Document], verb: str) -> list[dict[str, Any]]:
    """For `tower:tone:Q4_K_M` and its like of the other adapters of `tower` one task that stands for all of them."""
    named = {document.name for document in documents if document.adapters}
    names = {name for document in documents for name in (*document.adapters, *document.mixes)}
    taken = {task["name"] for task in tasks}
    together: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        document, _, rest = task["name"].partition(":")
        name, _, variant = rest.partition(":")
        whole = f"{document}:{variant}" if variant else document
        if document in named and name in names and whole not in taken:
            together.setdefault(whole, []).append(task)
    return [
        {
            "name": whole,
            "doc": f"all adapters of {whole}",
            "actions": None,
            "task_dep": [f"{verb}:{task['name']}" for task in of],
            # An action belongs to one task.
            "clean": [copy(action) for task in of if task.get("clean") not in (None, True) for action in task["clean"]],
        }
        for whole, of in together.items()
    ]


def _blocked(refusals: list[Refusal], variants: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Tasks of what is refused: whatever is asked of it ends at its check, which says what is wrong."""
    for refusal in refusals:
        for ending in ("", *(f":{variant}" for variant in variants)):
            yield {
                "name": refusal.name + ending,
                "doc": refusal.doc,
                "actions": None,
                "task_dep": [f"check:{refusal.name}"],
            }
