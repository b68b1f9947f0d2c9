"""parity: the adapter as GGUF, held to the trained model token by token on the unquantised base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.outputs import AdapterVersions, Files

from .train import PACKAGES

LEAST_AGREEMENT = 0.99
"""Share of positions at which base and adapter as F16 GGUF must choose the token of the trained model."""


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """convert the adapters to GGUF and hold them to the trained models"""
    for trained in models(project.documents):
        yield {"name": trained.title, **_parity(trained, project).task()}


def _parity(trained: Trained, project: Project) -> Step:
    base, store, whole = project.base_folder(trained.document.base), trained.store, trained.whole
    names = ("reference.json", "parity.json") if whole else ("adapter.gguf", "reference.json", "parity.json")

    def params() -> Mapping[str, Any]:
        from dlmbuild.export.lineage import general, origin, title
        from dlmbuild.lock.capture import pins

        document, facts = trained.document, read_json(base.facts)
        return {
            "questions": trained.questions(),
            "system_prompt": read_json(store.document)["system_prompt"],
            "base": facts["files"],
            "general": {
                "general.name": title(facts["key"], document.dlm_id, trained.name),
                **general(origin(facts, document.base), document.dlm_id),
            },
            "least_agreement": LEAST_AGREEMENT,
            "pins": pins(("gguf", "xllamacpp")),
            **({"whole": True} if whole else {}),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        adapter = AdapterVersions(store.adapter).current()
        folder = checkpoint(base)
        job = partial(place.run, needs=(*PACKAGES, "gguf", "xllamacpp"), log="parity")
        threads = this_machine().cores
        named = {"base": place.params["base"]}
        used = {"adapter": adapter, "checkpoint": folder}
        if not whole:
            described = {**named, "general": place.params["general"]}
            job("adapter_gguf", inputs=used, params=described, file="adapter.gguf")
        asked = {name: place.params[name] for name in ("questions", "system_prompt")}
        job("reference", inputs={"base": folder, "adapter": adapter, **trained.datasets}, params=asked, threads=threads)
        pair = {"gguf": base.gguf("F16"), "lora": place.out / "adapter.gguf"}
        if whole:
            pair = {"gguf": place.out / "model.F16.gguf"}
            sources = {**used, "base_quant": base.gguf("F16"), "f16": base.gguf("F16")}
            merged = {**named, "quant": "F16", "threads": threads, "name": trained.title}
            job("merge", inputs=sources, params=merged, file="model.F16.gguf")
        compared = job(
            "compare",
            inputs={**pair, "reference": place.out / "reference.json"},
            params={"report": "parity.json", "least_agreement": LEAST_AGREEMENT},
            threads=threads,
        )
        if whole:
            pair["gguf"].unlink()
        return compared

    return Step(
        name=f"parity:{trained.title}",
        doc=f"the adapter of {trained.title} as GGUF, compared with the trained model",
        rule="parity/6",
        inputs={"adapter": store.adapter / "adapter.json", "f16": base.gguf("F16"), **trained.datasets},
        params=params,
        reads=(store.document, base.facts),
        outputs=Files({name: store.cache / name for name in names}),
        work=work,
        store=store,
        archive=project.archive,
    )
