"""plan: every training parameter resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.locking import keep_to_lock, planning_facts
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import base_identity, read_json
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.store.outputs import Files

_OF_THE_BASE = ("context_length", "layers", "linear_layers", "parameters")


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """resolve the training parameters"""
    for document in project.documents:
        yield {"name": document.name, **_plan(document, project).task()}


def _plan(document: Document, project: Project) -> Step:
    base = project.base_folder(document.base)
    name = f"plan:{document.name}"

    def params() -> Mapping[str, Any]:
        facts = read_json(base.facts)
        training = read_json(document.store.document)["training"]
        return {
            "training": {key: value for key, value in training.items() if key != "gate"},  # which trains no adapter
            "base": {**base_identity(base), **{name: facts[name] for name in _OF_THE_BASE}},
            **planning_facts(document, project),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.doc.document import parse
        from dlmbuild.hardware.detect import Machine
        from dlmbuild.hardware.plan import plan_of_document
        from dlmbuild.io.digest import readable_json

        given = place.params
        keep_to_lock(document, project, base=given["base"], training=False)
        plan = plan_of_document(
            given["training"],
            given["recipe"],
            given["base"],
            Machine(**given["machine"]),
            lambda *key: parse(document.path).where(*key),
        )
        guessed = sorted(field for field, value in given["training"].items() if value == "auto")
        if guessed and not given["recipe"]["measured"]:
            watcher().note(name, "`auto` training values are cautious guesses: none were measured on this base")
        if any(one["adapter"] == "qlora" for one in plan.get("adapters", {"": plan}).values()):
            told = "the base is rounded to 4 bits while the adapter is trained"
            watcher().note(name, f"{told}; exports join it with the weights as they are, never with rounded ones")
        (place.out / "plan.json").write_bytes(readable_json(plan))
        return {"recipe_measured": given["recipe"]["measured"]}

    return Step(
        name=name,
        doc=f"training parameters of {document.name}",
        rule="plan/4",
        params=params,
        reads=(document.store.document, base.facts),
        outputs=Files({"plan.json": document.store.plan}),
        work=work,
        light=True,
        also_watched=lambda: [document.store.dlm_lock, project.archive.home.selftest],
        store=document.store,
        archive=project.archive,
    )
