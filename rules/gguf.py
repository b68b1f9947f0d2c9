"""gguf: a base as a GGUF file in half precision, which llama.cpp loads and every quantisation starts from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.base_models.reference import Reference
from dlmbuild.build.project import Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.store.layout import BaseFolder
from dlmbuild.store.outputs import Files


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """convert the pretrained models to GGUF"""
    for reference, folder in project.bases():
        yield {"name": reference.key, **_gguf(reference, folder, project).task()}


def _gguf(reference: Reference, folder: BaseFolder, project: Project) -> Step:
    def params() -> Mapping[str, Any]:
        from dlmbuild.export.lineage import general, origin
        from dlmbuild.lock.capture import pins

        facts = read_json(folder.facts)
        made_by = ("transformers", "torch", "xllamacpp") if facts["converter"] else ("gguf",)
        named = {"name": facts["key"], "general": general(origin(facts, reference))}
        how = {"pre": facts["pre_tokenizer"], "converter": facts["converter"]}
        return {"base": facts["files"], **named, **how, "pins": pins(made_by)}

    def work(place: Workplace) -> Mapping[str, Any]:
        return place.run(
            "gguf",
            needs=("numpy", "gguf"),
            inputs={"checkpoint": checkpoint(folder)},
            params={name: place.params[name] for name in ("name", "general", "pre")},
            file="base.F16.gguf",
        )

    return Step(
        name=f"gguf:{reference.key}",
        doc=f"{reference.text} as F16 GGUF",
        rule="gguf/3",
        params=params,
        reads=(folder.facts,),
        outputs=Files({"base.F16.gguf": folder.gguf("F16")}),
        work=work,
        store=folder,
        archive=project.archive,
    )
