"""merge: base and adapter in one quantised GGUF, merged in full precision and quantised once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.doc.names import EXACT, WEIGHED
from dlmbuild.errors import UsageError, Where
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.outputs import AdapterVersions, Files

from .imatrix import NAME as IMATRIX


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """merge the adapters into quantised models"""
    for trained in models(project.documents):
        for quant in project.quantisations:
            yield {"name": f"{trained.title}:{quant}", **_merge(trained, quant, project).task()}


def weighed(trained: Trained, quant: str) -> bool:
    """Whether the importance matrix of the document decides how this model is rounded."""
    return trained.document.imatrix and quant not in EXACT


def _impossible(document: Document, quant: str) -> UsageError:
    """Why there is no such model of a document that does without a matrix."""
    from dlmbuild.doc.document import examine

    head = examine(document.path).head
    mark = head.marks.get(("export", "imatrix")) if head else None
    return UsageError(
        'export.imatrix is "off"',
        where=Where(str(document.path), *(mark.value if mark else ())),
        why=f"there is no {quant} without an importance matrix",
        do="delete it, or export Q2_K or IQ3_S",
    )


def _merge(trained: Trained, quant: str, project: Project) -> Step:
    base, store = project.base_folder(trained.document.base), trained.store
    name = f"model.{quant}.gguf"
    base_quant = base.gguf("F16" if quant in WEIGHED else quant)
    matters = {"imatrix": store.cache / IMATRIX} if weighed(trained, quant) else {}

    def params() -> Mapping[str, Any]:
        from dlmbuild.export.lineage import general, origin, title
        from dlmbuild.lock.capture import pins

        facts = read_json(base.facts)
        return {
            "quant": quant,
            "base": facts["files"],
            "name": title(facts["key"], trained.document.dlm_id, trained.name),
            "general": general(origin(facts, trained.document.base), trained.document.dlm_id),
            "pins": pins(("libggml-python",)),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        return place.run(
            "merge",
            needs=("numpy", "gguf", "libggml"),
            inputs={
                "checkpoint": checkpoint(base),
                "adapter": AdapterVersions(store.adapter).current(),
                "base_quant": base_quant,
                "f16": base.gguf("F16"),
                **matters,
            },
            params={
                "quant": quant,
                "threads": this_machine().cores,
                **{name: place.params[name] for name in ("name", "general", "base")},
            },
            file=name,
        )

    return Step(
        name=f"merge:{trained.title}:{quant}",
        doc=f"{trained.title} merged, as {quant} GGUF",
        rule="merge/5",
        inputs={
            "adapter": store.adapter / "adapter.json",
            "base": base_quant,
            "f16": base.gguf("F16"),
            **matters,
        },
        params=params,
        reads=(base.facts,),
        outputs=Files({name: store.cache / name}),
        work=work,
        impossible=partial(_impossible, trained.document, quant) if quant in WEIGHED and not matters else None,
        store=store,
        archive=project.archive,
    )
