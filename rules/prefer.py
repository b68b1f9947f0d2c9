"""prefer: an adapter that answers learns which of two answers is the better one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import base_identity, checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.store.outputs import AdapterVersions

from .train import note_run, training_run


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """train the adapters on preferences"""
    for document in project.documents:
        if document.prefers:
            yield {"name": document.name, **step(document, project).task()}


def step(document: Document, project: Project) -> Step:
    """The step that trains a document's adapter on its preferences."""
    base, store = project.base_folder(document.base), document.store
    name = f"prefer:{document.name}"
    pairs = store.root / "dataset" / "preference.json"
    before, after = AdapterVersions(store.adapter, "sft"), AdapterVersions(store.adapter)

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pin

        torch = pin("torch").partition(".")[0]
        return {"plan": read_json(store.plan), "base": base_identity(base), "torch": torch}

    def work(place: Workplace) -> Mapping[str, Any]:
        plan = dict(place.params["plan"])
        return training_run(
            "prefer",
            name,
            document,
            project,
            place,
            inputs={"base": checkpoint(base), "adapter": before.current(), "pairs": pairs},
            plan={**plan, **plan.pop("preference")},
        )

    return Step(
        name=name,
        doc=f"the adapter of {document.name}, trained on its preferences",
        rule="prefer/1",
        inputs={"adapter": before.index_file, "pairs": pairs},
        params=params,
        reads=(store.root / "dataset.json", store.plan, base.facts),
        outputs=after,
        work=work,
        lock_file=store.lock_file,
        archive=project.archive,
        done=lambda record, built: note_run(document, project, record, built),
    )
