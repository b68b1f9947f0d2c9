"""train: rows become an adapter version."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.locking import keep_to_lock, planning_facts
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import base_identity, checkpoint, read_json
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.store.outputs import AdapterVersions
from dlmbuild.store.records import Record

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors", "numpy")


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """train the adapters"""
    for document in project.documents:
        yield {"name": document.name, **_train(document, project).task()}


def _train(document: Document, project: Project) -> Step:
    base, store = project.base_folder(document.base), document.store
    dataset = store.root / "dataset.json"
    versions = AdapterVersions(store.adapter)
    name = f"train:{document.name}"

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pin

        # Newer minor releases keep an adapter valid; what it was trained with is in its record and in dlm.lock.
        return {
            "plan": read_json(store.plan),
            "base": base_identity(base),
            "torch": pin("torch").partition(".")[0],
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.hardware.detect import this_machine
        from dlmbuild.hardware.doctor import determinism_here
        from dlmbuild.jobs.local import require_extra, run_job
        from dlmbuild.lock.capture import TRAINING_PINS, pins
        from dlmbuild.store.manifest import now, read_manifest

        require_extra(*PACKAGES)
        for warning in keep_to_lock(document, project, base=place.params["base"], training=True):
            watcher().note(name, warning)
        facts = planning_facts(document, project)
        machine = this_machine()
        number = len(read_manifest(store.manifest, document.dlm_id)["training_runs"]) + 1
        started = now().replace(":", "").replace("-", "")
        log = store.logs / f"train-{number:06d}-{started}.jsonl"
        run = run_job(
            "train",
            inputs={"base": checkpoint(base), "dataset": dataset, "log": log, "checkpoints": place.kept},
            params={
                "plan": place.params["plan"],
                "base_identity": place.params["base"],
                "checkpoint_seconds": float(os.environ.get("DLM_CHECKPOINT_SECONDS", "60")),
            },
            out=place.out,
            log=log.with_suffix(".log"),
            progress=place.progress,
            threads=place.params["plan"]["threads"],
        )
        return {
            "run": run,
            "pins": pins(TRAINING_PINS),
            "machine": {**facts["machine"], "tier": machine.tier},
            "determinism": determinism_here(project.archive.home, machine),
            "recipe": facts["recipe"],
        }

    def guard() -> None:
        if project.lock_mode == "strict":
            keep_to_lock(document, project, base=base_identity(base), training=True)

    def done(record: Record, built: bool) -> None:
        from dlmbuild.lock.lockfile import document_lock, write_store_lock
        from dlmbuild.store.manifest import append_run

        notes = record.notes
        lock = document_lock(
            base=base_identity(base),
            pins=notes["pins"],
            machine=notes["machine"],
            determinism=notes["determinism"],
            recipe=notes["recipe"],
            plan=record.ingredients.params["plan"],
            license=read_json(base.facts)["license"],
        )
        if project.lock_mode != "ignore":
            write_store_lock(store.dlm_lock, lock)
        if built:
            run = {"adapter_version": versions.current().name, "key": record.ingredients.key, **notes["run"]}
            append_run(store.manifest, document.dlm_id, "training_runs", {**run, "status": "ok"})

    return Step(
        name=name,
        doc=f"the adapter of {document.name}",
        rule="train/1",
        inputs={"dataset": dataset},
        params=params,
        reads=(store.plan, base.facts),
        outputs=versions,
        work=work,
        lock_file=store.lock_file,
        archive=project.archive,
        guard=guard,
        done=done,
    )
