"""prefer: an adapter that answers learns which of two answers is the better one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.build.reading import base_identity, checkpoint
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, adapters
from dlmbuild.hardware.plan import by_one_process
from dlmbuild.store.outputs import AdapterVersions

from .train import note_run, training_run


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """train the adapters on preferences"""
    for trained in adapters(project.documents):
        if trained.prefers:
            yield {"name": trained.title, **step(trained, project).task()}


def step(trained: Trained, project: Project) -> Step:
    """The step that trains an adapter on its document's preferences."""
    base, store = project.base_folder(trained.document.base), trained.store
    name = f"prefer:{trained.title}"
    pairs = store.dataset.with_suffix("") / "preference.json"
    before, after = AdapterVersions(store.adapter, "sft"), AdapterVersions(store.adapter)

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pin

        torch = pin("torch").partition(".")[0]
        return {"plan": trained.plan(), "base": base_identity(base), "torch": torch}

    def work(place: Workplace) -> Mapping[str, Any]:
        plan = dict(place.params["plan"])
        return training_run(
            "prefer",
            name,
            trained,
            project,
            place,
            inputs={"base": checkpoint(base), "adapter": before.current(), "pairs": pairs},
            plan={**plan, **plan.pop("preference"), **by_one_process(plan)},
        )

    return Step(
        name=name,
        doc=f"the adapter of {trained.title}, trained on its preferences",
        rule="prefer/3",
        inputs={"adapter": before.index_file, "pairs": pairs},
        params=params,
        reads=(store.dataset, store.plan, base.facts),
        outputs=after,
        work=work,
        store=store,
        archive=project.archive,
        done=lambda record, built: note_run(trained, project, record, built),
    )
