"""train: rows become an adapter version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlmbuild.build import history
from dlmbuild.build.locking import keep_to_lock, planning_facts
from dlmbuild.build.project import Project
from dlmbuild.build.reading import base_identity, checkpoint, read_json
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, adapters
from dlmbuild.build.warm import Lineage, is_warm
from dlmbuild.io.digest import sha256_file
from dlmbuild.store.outputs import AdapterVersions
from dlmbuild.store.records import Record

PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors", "numpy")


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """train the adapters"""
    for trained in adapters(project.documents):
        yield {"name": trained.title, **step(trained, project).task()}


def step(trained: Trained, project: Project) -> Step:
    """The step that trains an adapter."""
    document, store = trained.document, trained.store
    base = project.base_folder(document.base)
    made_from = {"dataset": store.dataset}
    if document.retains:
        made_from["retention"] = base.retention
    name = f"train:{trained.title}"
    lineage = Lineage(trained, project)

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pin

        # Newer minor releases keep an adapter valid; what it was trained with is in its record and in dlm.lock.
        return {
            "plan": _of_this_phase(trained.plan()),
            "base": base_identity(base),
            "torch": pin("torch").partition(".")[0],
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        inputs, plan = {"base": checkpoint(base), **made_from}, place.params["plan"]
        history.offer(trained, project.archive, place.key)
        if not is_warm(trained):
            return training_run("train", name, trained, project, place, inputs=inputs, plan=plan)
        start = lineage.start(place.key)
        watcher().note(name, start.words)
        inputs |= start.inputs
        notes = training_run("train", name, trained, project, place, inputs=inputs, plan=plan, warm=start.warm)
        return {**notes, "run": start.told(notes["run"]), "before": start.before}

    def done(record: Record, built: bool) -> None:
        history.keep(trained, project.archive)
        note_run(trained, project, record, built)

    def guard() -> None:
        if project.lock_mode == "strict":
            said = _what_the_base_says(trained, project)
            keep_to_lock(document, project, base=base_identity(base), training=True, retention=said)

    return Step(
        name=name,
        doc=f"the adapter of {trained.title}",
        rule="train/10",
        inputs=made_from,
        params=params,
        continued=lineage.continued,
        reads=(store.document, store.plan, base.facts),
        outputs=AdapterVersions(store.adapter, "sft" if trained.prefers else ""),
        work=work,
        store=store,
        archive=project.archive,
        guard=guard,
        done=done,
    )


def _of_this_phase(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What is written about preferences never trains the rows again."""
    return {name: value for name, value in plan.items() if name != "preference"}


def _what_the_base_says(trained: Trained, project: Project) -> str:
    """The digest of the retention set that a training is held to; "" if there is none."""
    found = project.base_folder(trained.document.base).retention
    return sha256_file(found) if trained.document.retains and found.exists() else ""


def training_run(
    job: str,
    name: str,
    trained: Trained,
    project: Project,
    place: Workplace,
    *,
    inputs: Mapping[str, Path],
    plan: Mapping[str, Any],
    warm: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Run the job of one phase of training, under the lock; returns the notes for the record."""
    from dlmbuild.build.forecast import require_memory
    from dlmbuild.hardware.detect import this_machine
    from dlmbuild.hardware.doctor import determinism_here
    from dlmbuild.hardware.quantised import libraries
    from dlmbuild.jobs.local import require_extra
    from dlmbuild.lock.capture import TRAINING_PINS, pins
    from dlmbuild.store.manifest import now, read_manifest
    from dlmbuild.store.runs import attempt
    from dlmbuild.train.kept import prune
    from dlmbuild.train.state import seconds_between_checkpoints

    document = trained.document
    require_extra(*PACKAGES)
    require_extra(*libraries(plan), extra="qlora")
    said = _what_the_base_says(trained, project)
    for warning in keep_to_lock(document, project, base=place.params["base"], training=True, retention=said):
        watcher().note(name, warning)
    if warning := require_memory(trained, project, plan):
        watcher().note(name, warning)
    facts = planning_facts(document, project)
    machine = this_machine()
    number = len(read_manifest(document.store.manifest, document.dlm_id)["training_runs"]) + 1
    started = now().replace(":", "").replace("-", "")
    log = document.store.logs / f"{job}-{number:06d}-{started}.jsonl"
    kept = read_json(document.store.document)["training"]["cache"]
    states = {"states": project.archive.home.states} if job == "train" and kept["enabled"] else {}
    named = {"adapter": trained.name} if trained.name else {}
    with attempt(document.store, log, key=place.key, seed=plan["seed"], **named):
        run = place.run(
            job,
            inputs={**inputs, **states, "log": log, "checkpoints": place.kept},
            params={
                "plan": plan,
                "base_identity": place.params["base"],
                "checkpoint_seconds": seconds_between_checkpoints(),
                **({"warm": warm} if warm else {}),
            },
            log=log.stem,
            threads=plan["threads"],
            processes=plan["world_size"],
        )
    if job == "train" and (replayed := read_json(trained.store.dataset).get("replayed")):
        run["replayed_rows"] = sum(replayed["rows"].values())
    for path in prune(project.archive.home.states, kept["max_bytes"], kept["prune_older_than_days"]):
        path.unlink(missing_ok=True)
    return {
        "run": run,
        "pins": pins(TRAINING_PINS),
        "machine": {**facts["machine"], "tier": machine.tier},
        "determinism": determinism_here(project.archive.home, machine),
        "recipe": facts["recipe"],
        **({"retention": said} if said else {}),
    }


def note_run(trained: Trained, project: Project, record: Record, built: bool) -> None:
    """Write the store's lock, and, of a phase that was really trained, the run into the manifest."""
    from dlmbuild.lock.lockfile import training_lock, write_store_lock
    from dlmbuild.store.manifest import append_run
    from dlmbuild.store.runs import note_version

    document, store, notes = trained.document, trained.store, record.notes
    base = project.base_folder(document.base)
    # The lock is the document's: where several adapters are trained, it has the plan of each.
    plan: Any = read_json(store.plan) if trained.name else record.ingredients.params["plan"]
    lock = training_lock(base_identity(base), plan, notes, read_json(base.facts)["license"])
    if project.lock_mode != "ignore":
        write_store_lock(store.dlm_lock, lock)
    if built:
        phase = "sft" if record.ingredients.rule.startswith("train/") and trained.prefers else ""
        version = AdapterVersions(store.adapter, phase).current().name
        named = {"adapter": trained.name} if trained.name else {}
        run = {**named, "adapter_version": version, "key": record.ingredients.key, **notes["run"]}
        append_run(store.manifest, document.dlm_id, "training_runs", {**run, "status": "ok"})
        note_version(store, record.ingredients.key, version)
