"""pack: a document with its trained adapter in one file, for another machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import adapters
from dlmbuild.store.outputs import Files

from . import prefer, train


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """pack the documents with their adapters (dlm unpack brings them in elsewhere)"""
    for document in project.documents:
        yield {"name": document.name, **_pack(document, project).task()}


def _pack(document: Document, project: Project) -> Step:
    store = document.store
    trained = list(adapters([document]))
    trainings = [train.step(one, project) for one in trained]
    trainings += [prefer.step(one, project) for one in trained if one.prefers]
    indexes = {one.slot("adapter"): one.store.adapter / "adapter.json" for one in trained}
    target = project.folder / f"{document.name}.dlm.pack"
    name = f"pack:{document.name}"

    def params() -> Mapping[str, Any]:
        made_from = [training.ingredients() for training in trainings]
        return {"name": document.name, "trainings": [found.key for found in made_from if found is not None]}

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.errors import StoreError
        from dlmbuild.pack.format import Header, write_pack

        archive = project.archive
        records = [training.known(key) for training, key in zip(trainings, place.params["trainings"], strict=False)]
        found = [record for record in records if record is not None]
        if len(found) < len(trainings):
            raise StoreError(
                f"the record of a training of {document.name} is missing", do=f"doit train:{document.name}"
            )
        text = archive.cache.digest(document.path)
        files = {text: document.path}
        files |= {d: archive.objects.path(d) for record in found for d in record.outputs.values()}
        if not all(map(archive.objects.has, files.keys() - {text})):
            raise StoreError(
                f"a file that the training of {document.name} made is missing or damaged", do="doit -a train"
            )
        if document.sources:
            watcher().note(name, "the files of training.sources are not in the pack, and it is built where they are")
        sizes = {digest: path.stat().st_size for digest, path in files.items()}
        header = Header(document.dlm_id, document.name, text, tuple(found), sizes)
        write_pack(header, files, place.out / target.name)
        return {"objects": len(files)}

    return Step(
        name=name,
        doc=f"{document.name} and its adapter in {target.name}",
        rule="pack/1",
        inputs={"document": document.path, **indexes},
        params=params,
        outputs=Files({target.name: target}, linked=False),
        work=work,
        store=store,
        archive=project.archive,
        clean=True,
        summary=lambda record: f"{target.name}: dlm unpack brings it in elsewhere",
    )
