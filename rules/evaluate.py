"""evaluate: what the base, the adapter and the export know, measured apart and held to what the document asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dlmbuild
from dlmbuild.build.project import Project
from dlmbuild.build.reading import answered, checkpoint, read_json
from dlmbuild.build.reporter import watcher
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, adapters, models
from dlmbuild.hardware.detect import this_machine
from dlmbuild.io.digest import sha256_json
from dlmbuild.store.outputs import AdapterVersions, Files
from dlmbuild.store.records import Record

if TYPE_CHECKING:
    from dlmbuild.errors import InvalidDocument

_GENERAL = Path(dlmbuild.__file__ or "").with_name("eval") / "general.json"
"""The text and the questions by which it is measured what a model still knows."""
_MOST = 200
"""Questions of each sort that are asked at most."""


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """measure what base, adapter and export know, and hold it to what the documents ask for"""
    for trained in models(project.documents):
        for step in (*(_measure(who, trained, project) for who in _WHO), _evaluate(trained, project)):
            yield {"name": step.name.partition(":")[2], **step.task()}
    asked_for = [f"evaluate:{one.title}" for one in adapters(project.documents) if one.document.evaluates]
    yield {"name": "_default", "doc": "what a plain `doit` evaluates", "actions": None, "task_dep": asked_for}


_WHO = {
    "base": ("torch", "transformers"),
    "adapter": ("torch", "transformers", "peft"),
    "export": ("xllamacpp",),
}
"""Who is measured → the packages that do it. One step each: what an edit leaves as it was is not measured again."""


def _measure(who: str, trained: Trained, project: Project) -> Step:
    document, store = trained.document, trained.store
    base = project.base_folder(document.base)
    exported = who == "export"
    datasets = {} if exported else trained.datasets
    model = {
        "base": {},
        "adapter": {"adapter": store.adapter / "adapter.json"},
        "export": {"model": store.cache / f"model.{document.default_quant}.gguf"},
    }[who]

    def params() -> Mapping[str, Any]:
        from dlmbuild.lock.capture import pins

        data = read_json(store.document)
        return {
            "asked": [pair for pairs in _questions(trained).values() for pair in pairs],
            "system_prompt": data["system_prompt"],
            "base": {} if exported else read_json(base.facts)["files"],
            "pins": pins(_WHO[who]),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        used = dict(model) if exported else {"base": checkpoint(base), **datasets}
        if who == "adapter":
            used["adapter"] = AdapterVersions(store.adapter).current()
        return place.run(
            "measure_export" if exported else "measure",
            needs=_WHO[who],
            inputs={**used, "general": _GENERAL},
            params={name: place.params[name] for name in ("asked", "system_prompt")},
            file=f"{who}.json",
            log=f"evaluate-{who}",
            threads=this_machine().cores,
        )

    return Step(
        name=f"evaluate:{trained.title}:{who}",
        doc=f"what {'its base knows of' if who == 'base' else f'the {who} knows of'} {trained.title}",
        rule="measure/3",
        inputs={**model, **datasets, "general": _GENERAL},
        params=params,
        reads=(store.document, store.plan, *([] if exported else [base.facts])),
        outputs=Files({f"{who}.json": store.evaluation / f"{who}.json"}),
        work=work,
        store=store,
        archive=project.archive,
    )


def _evaluate(trained: Trained, project: Project) -> Step:
    document, store = trained.document, trained.store
    name = f"evaluate:{trained.title}"
    measured = {who: store.evaluation / f"{who}.json" for who in _WHO}
    report_file = store.evaluation / "report.json"

    def params() -> Mapping[str, Any]:
        data = read_json(store.document)
        asked_for = {} if trained.parts else data.get("evaluate", {})  # a mix is measured, and held to nothing
        return {"asked": _questions(trained), "quant": document.default_quant, "asked_for": asked_for}

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.eval.report import make_report, missed
        from dlmbuild.io.digest import readable_json

        given = place.params
        found = {(given["quant"] if who == "export" else who): read_json(path) for who, path in measured.items()}
        report = make_report(found, given["asked"], read_json(_GENERAL)["items"], given["quant"])
        (place.out / report_file.name).write_bytes(readable_json(report))
        return {"missed": missed(report, given["asked_for"])}

    def told() -> str:
        from dlmbuild.eval.report import table

        return table(read_json(report_file), trained.title)

    def done(record: Record, built: bool) -> None:
        if record.notes["missed"]:  # the report stays, and so does the record: only the step does not succeed
            watcher().note(name, f"falls short of what the document asks for\n{told()}")
            raise _falls_short(record, trained)

    def guard() -> None:
        made_from = step.ingredients() if document.evaluates and not trained.parts else None
        record = step.known(made_from.key) if made_from else None
        if record and record.notes["missed"] and not step.outputs.mismatch(record.outputs, project.archive.cache):
            raise _falls_short(record, trained)

    step = Step(
        name=name,
        doc=f"the report on {trained.title}, held to what it asks for",
        rule="evaluate/5",
        inputs={**measured, "general": _GENERAL},
        params=params,
        reads=(store.document, store.plan),
        outputs=Files({report_file.name: report_file}),
        work=work,
        light=True,
        guard=guard,
        done=done,
        summary=lambda record: f"\n{told()}",
        store=store,
        archive=project.archive,
        clean=True,
    )
    return step


_TELL = {
    "recall": ("a ### Q", "train longer (training.num_epochs)"),
    "probes": ("a ### Q !probe", "write the same facts in other words as well"),
    "retention": ("a general question that the base answers", "train less (training.num_epochs, learning_rate)"),
    "perplexity": ("", "train less (training.num_epochs, learning_rate)"),
}
"""Threshold → what is missing where nothing was found, and what to do about a miss."""


def _falls_short(record: Record, trained: Trained) -> InvalidDocument:
    from dlmbuild.doc.document import parse
    from dlmbuild.errors import EvaluationError, InvalidDocument

    parsed = parse(trained.document.path)
    told = []
    for one in record.notes["missed"]:
        name, (lacking, do) = one["name"], _TELL[one["name"]]
        key = f"evaluate.{name}"
        what = f"{key} asks for {one['wanted']}, and there is not {lacking} to ask"
        if one["found"]:
            bound = "at most" if name == "perplexity" else "at least"
            what = f"{key} asks for {bound} {one['wanted']}, and the model has {one['found']}"
        worst = "".join(
            f"\n    {asked}\n      expected: {wanted}\n      got: {said}" for asked, wanted, said in one["worst"]
        )
        do = f"{do}, or ask for less" if one["found"] else f"delete {key}" + ", or write one" * (name != "retention")
        told.append(EvaluationError(what + worst, where=parsed.where("evaluate", name), do=do))
    told[-1].do += f"; all answers are in {trained.store.evaluation / 'report.json'}"
    return InvalidDocument(told)


def _questions(trained: Trained) -> dict[str, list[list[str]]]:
    """By their sort (eval/report.py) the questions, each with its answer; of very many always the same ones."""
    found = _all_questions(trained.mixed_of[0])
    for other in trained.mixed_of[1:]:
        for sort, pairs in _all_questions(other).items():
            known = set(map(tuple, found[sort]))  # several adapters may have a section in common
            found[sort] += [pair for pair in pairs if tuple(pair) not in known]
    return {
        sort: pairs if len(pairs) <= _MOST else sorted(pairs, key=sha256_json)[:_MOST] for sort, pairs in found.items()
    }


def _all_questions(trained: Trained) -> dict[str, list[list[str]]]:
    from dlmbuild.data.validation import split

    sections, share = trained.own_sections(), trained.plan()["validation"]
    parts = split(sections, share) if share else None
    learned = answered(parts.trained if parts else sections)
    sorts = {
        "recall": [pair for pair in learned if not pair.get("probe")],
        "held_out": [pair for pair in answered(parts.held if parts else []) if not pair.get("probe")],
        "probes": [pair for pair in answered(sections) if pair.get("probe")],
    }
    return {sort: [[pair["question"], pair["answer"]] for pair in pairs] for sort, pairs in sorts.items()}
