"""smoke: the merged model really loads in llama.cpp and is compared with the trained one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.outputs import Files

from .merge import weighed
from .parity import LEAST_AGREEMENT


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """load the merged models in llama.cpp and compare"""
    for trained in models(project.documents):
        for quant in project.quantisations:
            yield {"name": f"{trained.title}:{quant}", **_smoke(trained, quant, project).task()}


def _smoke(trained: Trained, quant: str, project: Project) -> Step:
    store = trained.store
    model, report = store.cache / f"model.{quant}.gguf", f"smoke.{quant}.json"
    # Quantisation may change a choice, and how often is reported; without it none may change.
    least = LEAST_AGREEMENT if quant == "F16" else 0.0

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pins

        return {"least_agreement": least, "pins": pins(("xllamacpp",))}

    def work(place: Workplace) -> Mapping[str, Any]:
        return place.run(
            "compare",
            needs=("xllamacpp",),
            inputs={"gguf": model, "reference": store.cache / "reference.json"},
            log="smoke",
            params={
                "report": report,
                "least_agreement": least,
                "quant": quant,
                "weighed": weighed(trained, quant),
            },
            threads=this_machine().cores,
        )

    return Step(
        name=f"smoke:{trained.title}:{quant}",
        doc=f"{trained.title} as {quant}, loaded and compared",
        rule="smoke/4",
        inputs={"model": model, "reference": store.cache / "reference.json"},
        params=params,
        outputs=Files({report: store.cache / report}),
        work=work,
        store=store,
        archive=project.archive,
    )
