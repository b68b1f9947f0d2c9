"""retention: what a base says by itself to general questions, for trainings that are to keep it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dlmbuild
from dlmbuild.base_models.reference import Reference
from dlmbuild.build.project import Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.layout import BaseFolder
from dlmbuild.store.outputs import Files

_QUESTIONS = Path(dlmbuild.__file__ or "").with_name("train") / "retention.json"


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """ask the pretrained models what they say by themselves"""
    for reference, folder in project.bases():
        if any(document.retains for document in project.documents if document.base.key == reference.key):
            yield {"name": reference.key, **_retention(reference, folder, project).task()}


def _retention(reference: Reference, folder: BaseFolder, project: Project) -> Step:
    def params() -> Mapping[str, Any]:
        # As with trainings: newer minor releases keep what was made valid.
        return {"base": read_json(folder.facts)["files"]}

    def work(place: Workplace) -> Mapping[str, Any]:
        return place.run(
            "retention",
            needs=("torch", "transformers", "safetensors"),
            inputs={"base": checkpoint(folder)},
            params={"threads": this_machine().threads, "precision": this_machine().precision},
            file=folder.retention.name,
            threads=this_machine().threads,
        )

    return Step(
        name=f"retention:{reference.key}",
        doc=f"what {reference.text} says by itself to general questions",
        rule="retention/5",
        inputs={"questions": _QUESTIONS},
        params=params,
        reads=(folder.facts,),
        outputs=Files({folder.retention.name: folder.retention}),
        work=work,
        store=folder,
        archive=project.archive,
    )
