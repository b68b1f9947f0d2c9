"""gate: what chooses between the named adapters of a document for a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.locking import keep_to_lock
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import base_identity, checkpoint, read_json
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.outputs import Files
from dlmbuild.store.records import Record


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """train what chooses between named adapters (training.gate of a document)"""
    for document in project.documents:
        if document.gated:
            yield {"name": document.name, **_gate(document, project).task()}


def _gate(document: Document, project: Project) -> Step:
    store = document.store
    base = project.base_folder(document.base)
    name = f"gate:{document.name}"

    def params() -> Mapping[str, Any]:
        from dlmbuild.data.gate import texts_of
        from dlmbuild.lock.capture import pin

        data = read_json(store.document)
        texts, probes = texts_of(data["sections"], list(document.adapters))
        return {
            "adapters": list(document.adapters),
            "texts": texts,
            "probes": probes,
            "settings": {key: value for key, value in data["training"]["gate"].items() if key != "enabled"},
            "seed": data["training"]["seed"],
            "base": base_identity(base),
            # As with adapters: newer minor releases keep what was trained valid.
            "torch": pin("torch").partition(".")[0],
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.data.gate import told

        keep_to_lock(document, project, base=place.params["base"], training=False)
        given = {key: place.params[key] for key in ("adapters", "texts", "probes", "settings", "seed")}
        threads = this_machine().threads
        found = place.run(
            "gate",
            needs=("torch", "transformers", "safetensors"),
            inputs={"base": checkpoint(base)},
            params={**given, "base_identity": place.params["base"], "threads": threads},
            threads=threads,
        )
        if found["cold"]:
            watcher().note(name, f"{told(found)}: `dlm prompt` asks the first adapter")
        return found

    def summary(record: Record) -> str:
        from dlmbuild.data.gate import told

        return "" if record.notes["cold"] else f"{name} {told(record.notes)}"

    return Step(
        name=name,
        doc=f"what chooses between the adapters of {document.name}",
        rule="gate/1",
        params=params,
        reads=(store.document, base.facts),
        outputs=Files({file: store.gate / file for file in ("gate.safetensors", "gate_config.json")}),
        work=work,
        summary=summary,
        store=store,
        archive=project.archive,
    )
