"""check: a document as data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from doit.exceptions import TaskFailed

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.errors import DlmError, InvalidDocument, StoreError
from dlmbuild.io.digest import sha256_json
from dlmbuild.store.outputs import Files

if TYPE_CHECKING:
    from dlmbuild.doc.sources import Found


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """read and check the documents"""
    for document in project.documents:
        yield {"name": document.name, **_check(document, project).task()}
    for refusal in refused(project):
        task = {"name": refusal.name, "doc": refusal.doc, "actions": [_fail(refusal.error)]}
        yield task | ({} if project.broken else {"meta": {"remark": refusal.doc}})


class Refusal(NamedTuple):
    """What cannot be built at all: its check fails, and whatever is asked of it ends there."""

    name: str
    """What `check:` names it: the document's name, if that may be a part of a task's."""
    doc: str
    error: DlmError


def refused(project: Project) -> Iterator[Refusal]:
    """The documents with mistakes, or a project without documents."""
    if not project.documents and not project.broken:
        error = project.nothing()
        yield Refusal("?", error.what, error)
    taken: set[str] = set()
    for broken in project.broken:
        # = and * mean something to doit, and : is ours; no sound name has a question mark.
        name = re.sub(r"[=*:]|[^\x20-\U0010ffff]|[\ud800-\udfff]", "?", broken.name)
        while name in taken:
            name += "?"
        taken.add(name)
        yield Refusal(name, f"{broken.path} has mistakes", broken.error)


def _check(document: Document, project: Project) -> Step:
    name = f"check:{document.name}"

    def params() -> Mapping[str, Any]:
        if not document.sources:
            return {}
        return {"sources": sha256_json([source.as_data() for source in _found(document, project)])}

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.doc.document import as_data, parse
        from dlmbuild.io.digest import canonical_json

        parsed = parse(document.path)
        data = as_data(parsed)
        if parsed.frontmatter.training.preference.enabled and not document.prefers:
            watcher().note(name, "training.preference.enabled is true, and there is no ::preference:: section to train")
        notes: dict[str, Any] = {"sections": len(data["sections"])}
        if document.sources:
            from dlmbuild.doc.sources import without_text

            found = _found(document, project)
            data["sources"] = [source.as_data() for source in found]
            if sha256_json(data["sources"]) != place.params["sources"]:
                why, do = "a build reads one state", f"doit {name}"
                raise StoreError(f"the sources of {document.path} changed during their check", why=why, do=do)
            for source in found:
                watcher().note(name, str(source))
            empty = None if parsed.sections else without_text(found, parsed.where("training", "sources"))
            if empty:
                raise empty
            notes["sources"] = [
                {"path": source.path, "files": len(source.files), "skipped": dict(source.skipped)} for source in found
            ]
        (place.out / "document.json").write_bytes(canonical_json(data))
        return notes

    def places() -> Mapping[str, str]:
        from dlmbuild.doc.document import parse

        parsed = parse(document.path)
        named = {f"sections[{at}]": f"section {at + 1} (line {s.line})" for at, s in enumerate(parsed.sections)}
        for at, source in enumerate(parsed.frontmatter.training.sources or ()):
            named[f"sources[{at}].files."] = source.path.rstrip("/") + "/"
        return named

    def also_watched() -> list[Path]:
        return [Path(path) for source in _found(document, project) for path in source.watched()]

    return Step(
        name=name,
        doc=f"{document.path}",
        rule="check/3",
        inputs={"document": document.path},
        params=params,
        outputs=Files({"document.json": document.store.document}),
        work=work,
        light=True,
        places=places,
        also_watched=also_watched,
        store=document.store,
        archive=project.archive,
    )


def _found(document: Document, project: Project) -> list[Found]:
    """The document's sources as they are now; mistakes of the frontmatter with their position."""
    if not document.sources:
        return []
    from dlmbuild.doc.sources import find_sources, sources_of

    given, policy, memory = document.sources["given"], document.sources["policy"], project.archive.home.sources
    try:
        return find_sources(dict(enumerate(given)), policy, project.folder / document.path, memory)
    except InvalidDocument:
        from dlmbuild.doc.document import examine

        head = examine(document.path).head
        if head is None:
            raise
        return sources_of(head, str(document.path), project.folder / document.path, memory)  # which knows positions


def _fail(error: DlmError) -> Any:
    def fail() -> TaskFailed:
        return TaskFailed(str(error))

    return (fail,)
