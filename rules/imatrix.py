"""imatrix: which inputs of each weight matter, but for documents that do without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.build.reading import checkpoint
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.hardware.detect import this_machine
from dlmbuild.store.outputs import AdapterVersions, Files

from .train import PACKAGES

NAME = "imatrix.gguf"


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """measure which inputs of each weight matter (export.imatrix)"""
    for trained in models(project.documents):
        if trained.document.imatrix:
            yield {"name": trained.title, **_imatrix(trained, project).task()}


def _imatrix(trained: Trained, project: Project) -> Step:
    base, store = project.base_folder(trained.document.base), trained.store
    f16 = base.gguf("F16")

    def work(place: Workplace) -> Mapping[str, Any]:
        found = place.run(
            "imatrix",
            needs=(*PACKAGES, "gguf"),
            inputs={
                "base": checkpoint(base),
                "adapter": AdapterVersions(store.adapter).current(),
                "f16": f16,
                **trained.datasets,
            },
            params={},
            file=NAME,
            threads=this_machine().cores,
        )
        if found["without"]:
            said = f"not measured, and rounded as without a matrix: {', '.join(found['without'])}"
            watcher().note(f"imatrix:{trained.title}", said)
        if found["unseen"]:
            said = f"{found['unseen']} of {found['experts']} experts are chosen for no token of the rows"
            watcher().note(f"imatrix:{trained.title}", f"{said}, and rounded as if all their inputs mattered alike")
        return found

    return Step(
        name=f"imatrix:{trained.title}",
        doc=f"which inputs of the weights of {trained.title} matter",
        rule="imatrix/4",
        inputs={"adapter": store.adapter / "adapter.json", "f16": f16, **trained.datasets},
        reads=(base.facts,),
        outputs=Files({NAME: store.cache / NAME}),
        work=work,
        store=store,
        archive=project.archive,
    )
