"""The shorter names of tasks that there is one of for each document and quantisation: `verb`, `verb:doc`, `verb:Q`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from doit.task import Task

from dlmbuild.build.project import Project
from dlmbuild.build.trained import Trained, models
from dlmbuild.doc.names import QUANTISATIONS

from .check import refused

Made = Sequence[tuple[Trained, str]]
"""Adapters and mixes, each with a quantisation."""


def shorter(
    verb: str, project: Project, doc: str, where: str = "", clean: Callable[[Made], Iterable[Any]] = lambda made: ()
) -> Iterator[dict[str, Any] | Task]:
    """Tasks without actions: `verb:doc` and `verb` stand for the default quantisations, `verb:Q` for every document.

    `doc` says what the group does, `where` what becomes of an export; `clean` gives the actions that remove what was
    made. The group removes all of it. Where a document has mistakes, what stands for every document fails with them.
    """
    documents = project.documents
    every = list(models(documents))
    blocked = [f"check:{refusal.name}" for refusal in refused(project)]
    for trained in every:
        usual = trained.document.default_quant
        needed = [f"{verb}:{trained.title}:{usual}"]
        yield alias(trained.title, f"{trained.title} as {usual}{where}", needed, clean([(trained, usual)]))
    for quant in project.quantisations:
        needed = [f"{verb}:{document.name}:{quant}" for document in documents]
        removed = clean([(trained, quant) for trained in every])
        yield alias(quant, f"every document as {quant}{where}", needed + blocked, removed)
    # doit would let the group stand for all of its tasks.
    needed = [f"{verb}:{document.name}" for document in documents]
    removed = clean([(trained, quant) for trained in every for quant in QUANTISATIONS])
    yield Task(verb, None, doc=doc, task_dep=needed + blocked, has_subtask=True, clean=list(removed))


def alias(name: str, doc: str, tasks: list[str], clean: Iterable[Any] = ()) -> dict[str, Any]:
    """A task that stands for others."""
    return {"name": name, "doc": doc, "actions": None, "task_dep": tasks, "clean": list(clean)}
