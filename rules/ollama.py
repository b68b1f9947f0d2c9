"""ollama: an export registered in a running Ollama, after it has answered there as it does in llama.cpp here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from doit.task import Task

from dlmbuild.build.project import Project
from dlmbuild.build.reading import read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.store.outputs import Files
from dlmbuild.store.records import Record

from .shorter import shorter


def tasks(project: Project) -> Iterator[dict[str, Any] | Task]:
    """register the exports in a running Ollama and compare its answers"""
    for trained in models(project.documents):
        for quant in project.quantisations:
            yield {"name": f"{trained.title}:{quant}", **_ollama(trained, quant, project).task()}
    yield from shorter("ollama", project, "register the default exports in a running Ollama", ", in Ollama")


def _ollama(trained: Trained, quant: str, project: Project) -> Step:
    store = trained.store
    folder = store.export(quant)
    model, manifest = folder / f"model.{quant}.gguf", folder / "export_manifest.json"
    reference = store.cache / "reference.json"

    def params() -> Mapping[str, Any]:
        # The name in Ollama is the document's: a renamed document is registered again.
        return {"document": trained.title, "quant": quant}

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.export.ollama.registration import model_name, register
        from dlmbuild.hardware.detect import this_machine
        from dlmbuild.jobs.local import require_extra

        require_extra("ollama", extra="ollama")
        require_extra("xllamacpp")
        name = model_name(trained.title.replace(":", "-"), quant)
        expect = partial(
            place.run,
            "expected_answers",
            inputs={"gguf": model, "reference": reference},
            params={"questions": trained.questions()},
            log="ollama",
            threads=this_machine().cores,
        )
        return register(name, model, read_json(manifest), expect, store.cache / "ollama.json", place.progress)

    def elsewhere(record: Record) -> str:
        from dlmbuild.export.ollama.registration import missing

        return missing(record.notes["name"], record.notes["digest"])

    def summary(record: Record) -> str:
        name, compared = shlex.quote(record.notes["name"]), record.notes["compared"]
        alike = f", {compared['alike']} of {compared['answers']} answers begin alike" if compared["answers"] else ""
        return (
            f"\n{trained.title} as {quant} is in Ollama {record.notes['version']} as {name}: beside llama.cpp here, "
            f"{compared['texts'] + compared['questions']} texts give the same tokens there{alike}\n"
            f"  ollama run {name}"
        )

    return Step(
        name=f"ollama:{trained.title}:{quant}",
        doc=f"{trained.title} as {quant}, in Ollama",
        rule="ollama/1",
        inputs={"manifest": manifest, "model": model, "reference": reference},
        params=params,
        reads=(store.document,),
        outputs=Files({}),
        work=work,
        elsewhere=elsewhere,
        summary=summary,
        store=store,
        archive=project.archive,
    )
