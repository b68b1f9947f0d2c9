"""dataset: a document's sections as rows of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dlmbuild.build import history
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import answered, checkpoint, read_json, tokenizer_files
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, adapters
from dlmbuild.errors import DataError, Where
from dlmbuild.io.digest import sha256_json
from dlmbuild.store.outputs import Folder
from dlmbuild.store.records import Record

from . import train

if TYPE_CHECKING:
    from dlmbuild.data.rows import RowTooLongError
    from dlmbuild.data.source_shards import SourceFile
    from dlmbuild.data.tokenizer import Tokenizer
    from dlmbuild.data.validation import Split


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """turn the documents into rows of tokens"""
    for trained in adapters(project.documents):
        yield {"name": trained.title, **_dataset(trained, project).task()}


def _dataset(trained: Trained, project: Project) -> Step:
    document, store = trained.document, trained.store
    base = project.base_folder(document.base)
    name = f"dataset:{trained.title}"

    def params() -> Mapping[str, Any]:
        files = _source_files(document, project)
        share = trained.plan().get("validation")
        replay = history.share(trained)
        ages = history.deleted(trained, project.archive) if replay else {}
        return {
            **({"sources": sha256_json([file[:3] for file in files])} if files else {}),
            "sections": sha256_json(trained.own_sections()),
            "system_prompt": read_json(store.document)["system_prompt"],
            "tokenizer": tokenizer_files(base),
            "sequence_len": trained.plan()["sequence_len"],
            "pairs": trained.prefers,
            **({"validation": share} if share else {}),
            **({"replay": {"share": replay, "deleted sections": len(ages), "versions ago": ages}} if replay else {}),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.data.pairs import pairs_of, write_pairs
        from dlmbuild.data.rows import RowTooLongError, rows_of
        from dlmbuild.data.shards import write_dataset
        from dlmbuild.data.source_shards import write_source_shards
        from dlmbuild.data.tokenizer import Tokenizer
        from dlmbuild.data.vocabulary import is_gap, told, words_of
        from dlmbuild.doc.schema import MAX_SEQUENCE_LEN
        from dlmbuild.jobs.local import require_extra

        require_extra("tokenizers", "jinja2")
        sections = trained.sections()
        tokenizer = Tokenizer.from_base(checkpoint(base))
        limit, prompt = place.params["sequence_len"], place.params["system_prompt"]
        longest = min(read_json(base.facts)["context_length"], MAX_SEQUENCE_LEN)
        untrained = _untrained(sections, trained)
        spelled = _control_tokens(document, tokenizer)
        for text in untrained.values():
            watcher().note(name, f"not trained: {text}")
        if spelled:
            asked = "plain text here; an Ollama or a llama-server that is asked the same takes"
            if len(spelled) == 1:
                spelt = f"a control token of the base is spelled, {spelled[0]}: it is {asked} it as the token itself"
            else:
                spelt = f"{len(spelled)} times control tokens of the base are spelled, first {spelled[0]}: they are "
                spelt += f"{asked} them as the tokens themselves"
            watcher().note(name, spelt)
        if day := tokenizer.template.asks_for_the_date:
            watcher().note(name, f"the base's template asks for today's date: what is trained says {day}, on any day")
        shards, known = write_source_shards(
            _source_files(document, project),
            tokenizer,
            limit,
            place.out,
            known=_last_shards(trained, project),
            objects=project.archive.objects,
            made_with=place.params["tokenizer"],
            progress=place.progress,
        )
        parts = _split(sections, place.params.get("validation"), document)
        rows = rows_of(parts.trained if parts else sections, prompt, tokenizer, limit, longest, place.progress)
        held = rows_of(parts.held, prompt, tokenizer, limit, longest) if parts else None
        old = history.Replay(trained, project.archive, place.params.get("replay", {}), parts.held if parts else [])
        try:
            counts = write_dataset(
                rows,
                tokenizer,
                limit,
                place.out,
                others=shards,
                instead=" and ".join(untrained.values()),
                held=held,
                replay=lambda beside: old.rows(beside, prompt, tokenizer, limit),
                words=words_of(sections),
                system_prompt=prompt,
            )
            if trained.prefers:
                counts |= write_pairs(pairs_of(sections, prompt, tokenizer, limit, longest), tokenizer, place.out)
        except RowTooLongError as error:
            raise _located(error, document) from None
        vocabulary = read_json(place.out / "dataset.json")["vocabulary"]
        if is_gap(vocabulary):
            watcher().note(name, f"the base has no good tokens for some of the text: {told(vocabulary)}")
        notes = {"counts": counts, "untrained": untrained, "control_tokens": len(spelled)}
        if parts:
            notes["held_out"] = {"groups": parts.held_groups, "of": parts.groups}
            watcher().note(name, f"held out for validation: {parts.held_groups} of {parts.groups} groups of content")
        if "replay" in place.params:
            history.write_taught(parts.trained if parts else sections, place.out)
        if old.notes:
            notes["replayed"] = old.notes
            watcher().note(name, old.words)
        return {**notes, "source_shards": known} if known else notes

    def done(record: Record, built: bool) -> None:
        training = train.step(trained, project)
        made_from = training.ingredients() if history.share(trained) else None
        if made_from and training.known(made_from.key) and training.is_noted(made_from.key):
            history.keep(trained, project.archive)  # these rows are trained already: no training will tell

    return Step(
        name=name,
        doc=f"rows of {trained.title}",
        rule="dataset/5",
        params=params,
        reads=(store.document, store.plan, base.facts),
        outputs=Folder(store.dataset, "dataset"),
        work=work,
        light=True,
        also_watched=lambda: [history.index_file(trained)] if history.share(trained) else [],
        done=done,
        store=store,
        archive=project.archive,
    )


def _source_files(document: Document, project: Project) -> list[SourceFile]:
    """The files of the document's sources, as document.json has them."""
    sources = read_json(document.store.document).get("sources", [])
    if not sources:
        return []
    from dlmbuild.data.source_shards import source_files
    from dlmbuild.doc.sources import folder_of

    return source_files(sources, [folder_of(source["path"], project.folder / document.path) for source in sources])


def _last_shards(trained: Trained, project: Project) -> Mapping[str, Any]:
    """The shards of source files in the dataset that is in place."""
    record = project.archive.last(trained.store.root, trained.slot("dataset"))
    return record.notes.get("source_shards", {}) if record else {}


def _split(sections: list[dict[str, Any]], share: Any, document: Document) -> Split | None:
    """What is trained and what is held out, where the document asks for that."""
    if not share:
        return None
    from dlmbuild.data.validation import split
    from dlmbuild.doc.document import parse

    try:
        return split(sections, share)
    except DataError as error:
        error.where = parse(document.path).where("training", "validation")
        raise


def _untrained(sections: list[dict[str, Any]], trained: Trained) -> dict[str, str]:
    """What is in the document and gives no training rows, in words."""
    triples = sum(len(s["triples"]) for s in sections if s["type"] == "preference")
    probes = sum(bool(pair.get("probe")) for pair in answered(sections))
    found = {}
    if triples and not trained.prefers:
        found["preference"] = f"{triples} preferences (training.preference.enabled is false)"
    if probes:
        found["probe"] = f"{probes} probe questions (they are there to be asked)"
    return found


def _control_tokens(document: Document, tokenizer: Tokenizer) -> list[Where]:
    """Where the document spells control tokens of its base."""
    from dlmbuild.io.text import read_text

    path = str(document.path)
    lines = enumerate(read_text(document.path).split("\n"), 1)
    return [Where(path, line, at.start() + 1) for line, text in lines for at in tokenizer.control.find(text)]


def _located(error: RowTooLongError, document: Document) -> DataError:
    """The same error with its line: data carries no positions, so the document is asked again."""
    from dlmbuild.doc.document import parse
    from dlmbuild.doc.sections import Instruction, Preference

    parsed = parse(document.path)
    where, section = parsed.where("system_prompt"), parsed.sections[error.section]
    if error.part != "system_prompt" and isinstance(section, Instruction):
        pair = section.pairs[error.pair]
        where = Where(str(document.path), pair.line if error.part == "question" else pair.answer_line, 1)
    elif error.part != "system_prompt" and isinstance(section, Preference):
        triple = section.triples[error.pair]
        where = Where(str(document.path), triple.line if error.part == "question" else triple.chosen_line, 1)
    return DataError(error.what, where=where, why=error.why, do=error.do)
