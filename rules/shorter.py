"""The shorter names of tasks that there is one of for each document and quantisation: `verb`, `verb:doc`, `verb:Q`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from doit.task import Task

from dlmbuild.build.project import Project
from dlmbuild.build.trained import Trained, models
from dlmbuild.doc.names import QUANTISATIONS


def shorter(
    verb: str, where: str, project: Project, doc: str, clean: Callable[[Trained, str], Iterable[Any]] = lambda *of: ()
) -> Iterator[dict[str, Any] | Task]:
    """Tasks without actions: `verb:doc` and `verb` stand for the default quantisations, `verb:Q` for every document.

    `where` says what becomes of an export, `doc` what the group does; `clean` gives the actions that remove what was
    made of a document at a quantisation. The group removes all of it.
    """
    documents = project.documents
    every = list(models(documents))
    for trained in every:
        usual = trained.document.default_quant
        needed = [f"{verb}:{trained.title}:{usual}"]
        yield alias(trained.title, f"{trained.title} as {usual}, {where}", needed, clean(trained, usual))
    for quant in project.quantisations:
        needed = [f"{verb}:{document.name}:{quant}" for document in documents]
        removed = [action for trained in every for action in clean(trained, quant)]
        yield alias(quant, f"every document as {quant}, {where}", needed, removed)
    # doit would let the group stand for all of its tasks.
    needed = [f"{verb}:{document.name}" for document in documents]
    removed = [action for trained in every for quant in QUANTISATIONS for action in clean(trained, quant)]
    yield Task(verb, None, doc=doc, task_dep=needed, has_subtask=True, clean=removed)


def alias(name: str, doc: str, tasks: list[str], clean: Iterable[Any] = ()) -> dict[str, Any]:
    """A task that stands for others."""
    return {"name": name, "doc": doc, "actions": None, "task_dep": tasks, "clean": list(clean)}
