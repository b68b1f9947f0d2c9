"""runtime: an adapter in the layout that another runtime than llama.cpp loads, with a script that serves it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dlmbuild.build.clean import CleanFolders
from dlmbuild.build.project import Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.doc.names import RUNTIMES
from dlmbuild.store.outputs import AdapterVersions, Folder
from dlmbuild.store.records import Record

from .check import refused
from .shorter import alias


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """write adapters and mixes as vLLM and MLX load them, with scripts that serve them"""
    every = list(models(project.documents))
    for trained in every:
        for runtime in RUNTIMES:
            task = _runtime(trained, runtime, project).task()
            yield {"name": f"{trained.title}:{runtime}", **task, "clean": _clean([trained], [runtime])}
        needed = [f"runtime:{trained.title}:{runtime}" for runtime in RUNTIMES]
        yield alias(trained.title, f"{trained.title} for every runtime", needed, _clean([trained], RUNTIMES))
    for runtime in RUNTIMES:
        needed = [f"runtime:{document.name}:{runtime}" for document in project.documents]
        needed += [f"check:{refusal.name}" for refusal in refused(project)]
        yield alias(runtime, f"every document for {runtime}", needed, _clean(every, [runtime]))


def _outputs(trained: Trained, runtime: str) -> Folder:
    return Folder(trained.store.runtime / f"{runtime}.json", runtime, shared=True)


def _clean(every: Sequence[Trained], runtimes: Iterable[str]) -> list[CleanFolders]:
    return [CleanFolders([_outputs(trained, runtime) for trained in every for runtime in runtimes])]


def _runtime(trained: Trained, runtime: str, project: Project) -> Step:
    document, store = trained.document, trained.store
    base = project.base_folder(document.base)
    folder = store.runtime / runtime

    def params() -> Mapping[str, Any]:
        from dlmbuild.export.manifest import runtime_parameters

        data, facts = read_json(store.document), read_json(base.facts)
        return {
            "runtime": runtime,
            "files": facts["files"],
            "base": os.path.relpath(checkpoint(base), folder),
            "parameters": runtime_parameters(data["export"], trained.longest_row(), facts["context_length"]),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.io.digest import readable_json, sha256_file

        done = place.run(
            runtime,
            needs=("numpy", "gguf"),
            inputs={"adapter": AdapterVersions(store.adapter).current(), "checkpoint": checkpoint(base)},
            params={name: place.params[name] for name in ("files", "base", "parameters")},
        )
        files = {path.name: {"sha256": sha256_file(path)} for path in sorted(place.out.iterdir())}
        (place.out / f"{runtime}.json").write_bytes(readable_json({"files": files, "dlm_id": document.dlm_id}))
        return done

    def summary(record: Record) -> str:
        return f"\n{trained.title} for {runtime}:\n  sh {shlex.quote(str(folder / 'serve.sh'))}"

    return Step(
        name=f"runtime:{trained.title}:{runtime}",
        doc=f"the adapter of {trained.title} for {runtime}",
        rule="runtime/1",
        inputs={"adapter": store.adapter / "adapter.json"},
        params=params,
        reads=(store.document, base.facts, *trained.datasets.values()),
        outputs=_outputs(trained, runtime),
        work=work,
        summary=summary,
        store=store,
        archive=project.archive,
    )
