"""quantize: a base's GGUF with smaller numbers, shared by every document on that base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.base_models.reference import Reference
from dlmbuild.build.project import Project
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.doc.names import WEIGHED
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.layout import BaseFolder
from dlmbuild.store.outputs import Files


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """quantise the pretrained models"""
    for reference, folder in project.bases():
        for quant in project.quantisations:
            if quant not in ("F16", *WEIGHED):  # that is what gguf makes; no base is made by a matrix of its own
                yield {"name": f"{reference.key}:{quant}", **_quantize(reference, folder, quant, project).task()}


def _quantize(reference: Reference, folder: BaseFolder, quant: str, project: Project) -> Step:
    name = f"base.{quant}.gguf"

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pins

        return {"quant": quant, "pins": pins(("libggml-python",))}

    def work(place: Workplace) -> Mapping[str, Any]:
        done = place.run(
            "quantize",
            needs=("numpy", "gguf", "libggml"),
            inputs={"f16": folder.gguf("F16")},
            params={"quant": quant, "threads": this_machine().cores},
            file=name,
        )
        if done["fallbacks"]:
            types = ", ".join(f"{kind} {count}" for kind, count in done["types"].items())
            watcher().note(
                f"quantize:{reference.key}:{quant}",
                f"{len(done['fallbacks'])} tensors have rows that {quant} does not divide, and take more bits: {types}",
            )
        return done

    return Step(
        name=f"quantize:{reference.key}:{quant}",
        doc=f"{reference.text} as {quant} GGUF",
        rule="quantize/1",
        inputs={"f16": folder.gguf("F16")},
        params=params,
        outputs=Files({name: folder.gguf(quant)}),
        work=work,
        store=folder,
        archive=project.archive,
    )
