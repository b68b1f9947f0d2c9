"""check: a document as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doit.exceptions import TaskFailed

from dlmbuild.build.project import BrokenDocument, Document, Project
from dlmbuild.build.step import Step, Workplace
from dlmbuild.store.outputs import Files


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """read and check the documents"""
    for document in project.documents:
        yield {"name": document.name, **_check(document, project).task()}
    for broken in project.broken:
        yield {"name": broken.name, "doc": f"{broken.path} has mistakes", "actions": [_fail(broken)]}


def _check(document: Document, project: Project) -> Step:
    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.doc.document import as_data, parse
        from dlmbuild.io.digest import canonical_json

        data = as_data(parse(document.path))
        (place.out / "document.json").write_bytes(canonical_json(data))
        return {"sections": len(data["sections"])}

    def places() -> Mapping[str, str]:
        from dlmbuild.doc.document import parse

        sections = parse(document.path).sections
        return {f"sections[{at}]": f"section {at + 1} (line {section.line})" for at, section in enumerate(sections)}

    return Step(
        name=f"check:{document.name}",
        doc=f"{document.path}",
        rule="check/1",
        inputs={"document": document.path},
        params=dict,
        reads=(),
        outputs=Files({"document.json": document.store.document}),
        work=work,
        light=True,
        places=places,
        lock_file=document.store.lock_file,
        archive=project.archive,
    )


def _fail(broken: BrokenDocument) -> Any:
    def fail() -> TaskFailed:
        return TaskFailed(str(broken.error))

    return (fail,)
