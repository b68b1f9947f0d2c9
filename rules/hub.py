"""hub: an export as a folder that can be uploaded to a model hub as it is. Nothing is sent from here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from doit.task import Task

from dlmbuild.build.clean import CleanFolders
from dlmbuild.build.project import Project
from dlmbuild.build.reading import read_json
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.store.outputs import AdapterVersions, Folder
from dlmbuild.store.records import Record

from .shorter import Made, shorter


def tasks(project: Project) -> Iterator[dict[str, Any] | Task]:
    """make folders of the exports that can be uploaded to a model hub"""
    for trained in models(project.documents):
        for quant in project.quantisations:
            task = _hub(trained, quant, project).task()
            yield {"name": f"{trained.title}:{quant}", **task, "clean": _clean([(trained, quant)])}
    yield from shorter("hub", project, "make folders of the default exports for a model hub", ", for a hub", _clean)


def _outputs(trained: Trained, quant: str) -> Folder:
    return Folder(trained.store.hub / f"{quant}.json", quant, shared=True)


def _clean(made: Made) -> list[CleanFolders]:
    return [CleanFolders([_outputs(trained, quant) for trained, quant in made])]


def _hub(trained: Trained, quant: str, project: Project) -> Step:
    document, store = trained.document, trained.store
    base = project.base_folder(document.base)
    exported = store.export(quant)
    manifest, model = exported / "export_manifest.json", exported / f"model.{quant}.gguf"
    name = f"hub:{trained.title}:{quant}"

    def params() -> Mapping[str, Any]:
        from dlmbuild.export.lineage import origin

        known = document.base.known
        # Whoever names a folder or a file knows what it is; of a hub's model the registry may know better.
        source = {**origin(read_json(base.facts), document.base), "redistributable": not known or known.redistributable}
        return {"dlm_id": document.dlm_id, "quant": quant, "base": source}

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.export.hub import contents, write_hub_files

        objects, made = project.archive.objects, read_json(manifest)
        found = contents(place.params["base"], made)
        placed = {there: objects.keep(exported / here) for there, here in found.items()}
        for there, sha256 in placed.items():
            objects.place(sha256, place.out / there)
        adapter = AdapterVersions(store.adapter).current()
        left_out = write_hub_files(place.params, adapter=adapter, manifest=made, placed=placed, out=place.out)
        for what, why in left_out.items():
            watcher().note(name, f"{what} is left out: {why}")
        if not place.params["base"]["license"]:
            watcher().note(name, "the licence of the base is not known: write one into README.md before you upload it")
        return {"left_out": left_out}

    def summary(record: Record) -> str:
        folder = shlex.quote(str(store.hub / quant))
        return f"\n{trained.title} as {quant}, for a model hub, is in {folder}\n  hf upload USER/NAME {folder} ."

    return Step(
        name=name,
        doc=f"{trained.title} as {quant}, for a hub",
        rule="hub/3",
        inputs={"manifest": manifest, "model": model, "adapter": store.adapter / "adapter.json"},
        params=params,
        reads=(base.facts,),
        outputs=_outputs(trained, quant),
        work=work,
        summary=summary,
        store=store,
        archive=project.archive,
    )
