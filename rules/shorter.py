"""The shorter names of tasks that there is one of for each document and quantisation: `verb`, `verb:doc`, `verb:Q`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from doit.task import Task

from dlmbuild.build.project import Project


def shorter(verb: str, where: str, project: Project, doc: str) -> Iterator[dict[str, Any] | Task]:
    """Tasks without actions: `verb:doc` and `verb` stand for the default quantisations, `verb:Q` for every document.

    `where` says what becomes of an export, `doc` what the group does.
    """
    for document in project.documents:
        default = f"{verb}:{document.name}:{document.default_quant}"
        yield _alias(document.name, f"{document.name} as {document.default_quant}, {where}", [default])
    for quant in project.quantisations:
        exports = [f"{verb}:{document.name}:{quant}" for document in project.documents]
        yield _alias(quant, f"every document as {quant}, {where}", exports)
    # doit would let the group stand for all of its tasks.
    needed = [f"{verb}:{document.name}" for document in project.documents]
    yield Task(verb, None, doc=doc, task_dep=needed, has_subtask=True)


def _alias(name: str, doc: str, tasks: list[str]) -> dict[str, Any]:
    return {"name": name, "doc": doc, "actions": None, "task_dep": tasks}
