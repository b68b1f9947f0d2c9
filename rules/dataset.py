"""dataset: a document's sections as rows of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import checkpoint, read_json, tokenizer_files
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.io.digest import sha256_json
from dlmbuild.store.outputs import Folder


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """turn the documents into rows of tokens"""
    for document in project.documents:
        yield {"name": document.name, **_dataset(document, project).task()}


def _dataset(document: Document, project: Project) -> Step:
    base, store = project.base_folder(document.base), document.store
    name = f"dataset:{document.name}"

    def params() -> Mapping[str, Any]:
        data = read_json(store.document)
        return {
            "sections": sha256_json(data["sections"]),
            "system_prompt": data["system_prompt"],
            "tokenizer": tokenizer_files(base),
            "sequence_len": read_json(store.plan)["sequence_len"],
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.data.rows import RowTooLongError, rows_of
        from dlmbuild.data.shards import write_dataset
        from dlmbuild.data.tokenizer import Tokenizer
        from dlmbuild.jobs.local import require_extra

        require_extra("tokenizers", "jinja2")
        sections = read_json(store.document)["sections"]
        tokenizer = Tokenizer.from_base(checkpoint(base))
        limit = place.params["sequence_len"]
        untrained = _untrained(sections)
        for text in untrained.values():
            watcher().note(name, text)
        try:
            rows = list(rows_of(sections, place.params["system_prompt"], tokenizer, limit))
        except RowTooLongError as error:
            raise _located(error, document) from None
        counts = write_dataset(rows, tokenizer, limit, place.out)
        return {"counts": counts, "untrained": untrained}

    return Step(
        name=name,
        doc=f"rows of {document.name}",
        rule="dataset/1",
        inputs={},
        params=params,
        reads=(store.document, store.plan, base.facts),
        outputs=Folder(store.root / "dataset.json", "dataset"),
        work=work,
        light=True,
        lock_file=store.lock_file,
        archive=project.archive,
    )


def _untrained(sections: list[dict[str, Any]]) -> dict[str, str]:
    """What is in the document and gives no training rows, in words."""
    triples = sum(len(s["triples"]) for s in sections if s["type"] == "preference")
    probes = sum(bool(p.get("probe")) for s in sections if s["type"] == "instruction" for p in s["pairs"])
    found = {}
    if triples:
        found["preference"] = f"not trained: {triples} preferences (this version has no preference training yet)"
    if probes:
        found["probe"] = f"not trained: {probes} probe questions (they are there to be asked)"
    return found


def _located(error: Any, document: Document) -> Any:
    """The same error with the line of the answer: data carries no positions, so the document is asked again."""
    from dlmbuild.doc.document import parse
    from dlmbuild.errors import DataError, Where

    pair = parse(document.path).sections[error.section].pairs[error.pair]
    where = Where(str(document.path), pair.answer_line, 1)
    return DataError(error.what, where=where, why=error.why, do=error.do)
