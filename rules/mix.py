"""mix: a weighted sum of named adapters as an adapter of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, mixes
from dlmbuild.store.outputs import AdapterVersions


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """mix named adapters (export.mixes of a document)"""
    for trained in mixes(project.documents):
        yield {"name": trained.title, **_mix(trained, project).task()}


def _mix(trained: Trained, project: Project) -> Step:
    store = trained.store
    name = f"mix:{trained.title}"
    parts = {part: AdapterVersions(store.named(part).adapter) for part in trained.parts}

    def params() -> Mapping[str, Any]:
        return {"weights": dict(trained.parts), "rank": trained.rank}

    def work(place: Workplace) -> Mapping[str, Any]:
        found = place.run(
            "mix",
            needs=("numpy", "safetensors"),
            inputs={f"of_{part}": versions.current() for part, versions in parts.items()},
            params=place.params,
        )
        if trained.rank is not None:
            watcher().note(name, f"at rank {found['rank']} it lacks {found['error']:.2%} of the whole sum")
        return found

    return Step(
        name=name,
        doc=f"{trained.title}, mixed of {', '.join(parts)}",
        rule="mix/1",
        inputs={part: versions.index_file for part, versions in parts.items()},
        params=params,
        outputs=AdapterVersions(store.adapter),
        work=work,
        store=store,
        archive=project.archive,
    )
