"""export: everything a runtime needs, in one folder; only what has passed parity and smoke gets here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doit.task import Task

from dlmbuild.build.clean import Clean, Exported
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.store.outputs import Files
from dlmbuild.store.records import Record

from .check import refused


def tasks(project: Project) -> Iterator[dict[str, Any] | Task]:
    """build the exports that a runtime loads (the default quantisation of each document)"""
    said: set[Path] = set()
    made = {quant: [_exported(document, quant) for document in project.documents] for quant in project.quantisations}
    for at, document in enumerate(project.documents):
        for quant in project.quantisations:
            task = _export(document, quant, project).task()
            yield {"name": f"{document.name}:{quant}", **task, "clean": [Clean([made[quant][at]], said)]}
        default = f"export:{document.name}:{document.default_quant}"
        clean = Clean([_exported(document, document.default_quant)], said)
        yield _alias(document.name, f"{document.name} as {document.default_quant}", [default], clean)
    blocked = [f"check:{refusal.name}" for refusal in refused(project)]
    for quant in project.quantisations:
        exports = [f"export:{document.name}:{quant}" for document in project.documents]
        yield _alias(quant, f"every document as {quant}", exports + blocked, Clean(made[quant], said))
    # doit would let the group stand for all of its tasks; here it stands for the default quantisations.
    # `doit clean` removes the exports of every quantisation; adapters and history stay.
    yield Task(
        "export",
        None,
        doc="build the exports that a runtime loads (the default quantisation of each document)",
        task_dep=[f"export:{document.name}" for document in project.documents] + blocked,
        has_subtask=True,
        clean=[Clean((_exported(one, quant) for one in project.documents for quant in QUANTISATIONS), said)],
    )


def _alias(name: str, doc: str, tasks: list[str], clean: Clean) -> dict[str, Any]:
    return {"name": name, "doc": doc, "actions": None, "task_dep": tasks, "clean": [clean]}


def _files(document: Document, quant: str) -> tuple[str, ...]:
    parts = () if "" in document.whole else (f"base.{quant}.gguf", "adapter.gguf")
    return (*parts, f"model.{quant}.gguf", "Modelfile", "README.md", "llama-server.sh", "export_manifest.json")


def _exported(document: Document, quant: str) -> Exported:
    return Exported(document.store.export(quant), _files(document, quant))


def _export(document: Document, quant: str, project: Project) -> Step:
    base, store = project.base_folder(document.base), document.store
    folder = store.export(quant)
    big = {
        f"base.{quant}.gguf": base.gguf(quant),
        "adapter.gguf": store.cache / "adapter.gguf",
        f"model.{quant}.gguf": store.cache / f"model.{quant}.gguf",
    }
    big = {name: path for name, path in big.items() if name in _files(document, quant)}
    reports = {"parity": store.cache / "parity.json", "smoke": store.cache / f"smoke.{quant}.json"}

    def params() -> Mapping[str, Any]:
        from dlmbuild.export.lineage import origin

        data, facts = read_json(store.document), read_json(base.facts)
        draft = known.draft if (known := document.base.known) else ""
        return {
            "dlm_id": document.dlm_id,
            "quant": quant,
            "export": {name: value for name, value in data["export"].items() if name != "default_quant"},
            "system_prompt": data["system_prompt"],
            "base": {
                **origin(facts, document.base),
                **{name: facts[name] for name in ("context_length", "files")},
            },
            "draft": os.path.relpath(project.archive.home.base(draft).root, folder) if draft else "",
            "longest_row": read_json(store.root / "dataset.json")["counts"]["longest_row"],
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.export.manifest import export_files
        from dlmbuild.io.gguf_file import read_header

        objects = project.archive.objects
        digests = {name: objects.keep(path) for name, path in big.items()}
        for name, sha256 in digests.items():
            objects.place(sha256, place.out / name)
        adapter = read_json(store.adapter / "adapter.json")
        export_files(
            place.params,
            adapter=adapter,
            checkpoint=checkpoint(base),
            digests=digests,
            parity=read_json(reports["parity"]),
            smoke=read_json(reports["smoke"]),
            adds_bos=bool(read_header(big[f"model.{quant}.gguf"]).metadata.get("tokenizer.ggml.add_bos_token")),
            out=place.out,
        )
        return {"agreement": read_json(reports["smoke"])["agreement"]}

    def done(record: Record, built: bool) -> None:
        from dlmbuild.store.manifest import append_run

        if "" in document.whole:  # what an earlier export of a plain LoRA left would be read as parts of this one
            for name in ("adapter.gguf", f"base.{quant}.gguf"):
                (folder / name).unlink(missing_ok=True)
        if built:
            run = {"quant": quant, "target": "ollama", "key": record.ingredients.key, "files": dict(record.outputs)}
            append_run(store.manifest, document.dlm_id, "exports", run)

    def summary(record: Record) -> str:
        model, name = shlex.quote(document.name.lower()), shlex.quote(document.name)
        modelfile, launch = (shlex.quote(str(folder / name)) for name in ("Modelfile", "llama-server.sh"))
        parts = f"base.{quant}.gguf + adapter.gguf  the same in two parts"
        if "" in document.whole:
            parts = "without adapter.gguf: DoRA sets the length of rows, which no LoRA file can hold"
        return (
            f"\n{document.name} as {quant} is in {folder}\n"
            f"  model.{quant}.gguf  the whole model    {parts}\n"
            f'  ask it:      dlm prompt --export {quant} {name} "…"\n'
            f"  in Ollama:   doit ollama:{name}:{quant}\n"
            f"               or: ollama create {model} -f {modelfile} && ollama run {model}\n"
            f"  llama.cpp:   sh {launch}"
        )

    return Step(
        name=f"export:{document.name}:{quant}",
        doc=f"{document.name} as {quant}",
        rule="export/3",
        inputs={**big, **reports, "adapter": store.adapter / "adapter.json"},
        params=params,
        reads=(store.document, base.facts, store.root / "dataset.json"),
        outputs=Files({name: folder / name for name in _files(document, quant)}),
        work=work,
        lock_file=store.lock_file,
        archive=project.archive,
        done=done,
        summary=summary,
    )
