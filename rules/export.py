"""export: everything a runtime needs, in one folder; only what has passed parity and smoke gets here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doit.task import Task

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.store.outputs import Files
from dlmbuild.store.records import Record


def tasks(project: Project) -> Iterator[dict[str, Any] | Task]:
    """build the exports that a runtime loads (the default quantisation of each document)"""
    for document in project.documents:
        for quant in QUANTISATIONS:
            yield {"name": f"{document.name}:{quant}", **_export(document, quant, project).task()}
        default = f"export:{document.name}:{document.default_quant}"
        yield _alias(document.name, f"{document.name} as {document.default_quant}", [default])
    names = [d.name for d in project.documents] + [d.name for d in project.broken]
    for quant in QUANTISATIONS:
        yield _alias(quant, f"every document as {quant}", [f"export:{name}:{quant}" for name in names])
    # doit would let the group stand for all of its tasks; here it stands for the default quantisations.
    yield Task(
        "export",
        None,
        doc="build the exports that a runtime loads (the default quantisation of each document)",
        task_dep=[f"export:{name}" for name in names],
        has_subtask=True,
        clean=[(_remove_all, [project])],
    )


def _alias(name: str, doc: str, tasks: list[str]) -> dict[str, Any]:
    return {"name": name, "doc": doc, "actions": None, "task_dep": tasks}


def _export(document: Document, quant: str, project: Project) -> Step:
    base, store = project.base_folder(document.base), document.store
    folder = store.export(quant)
    big = {
        f"base.{quant}.gguf": base.gguf(quant),
        "adapter.gguf": store.cache / "adapter.gguf",
        f"model.{quant}.gguf": store.cache / f"model.{quant}.gguf",
    }
    reports = {"parity": store.cache / "parity.json", "smoke": store.cache / f"smoke.{quant}.json"}

    def params() -> Mapping[str, Any]:
        data, facts = read_json(store.document), read_json(base.facts)
        return {
            "dlm_id": document.dlm_id,
            "quant": quant,
            "export": {name: value for name, value in data["export"].items() if name != "default_quant"},
            "system_prompt": data["system_prompt"],
            "base": {name: facts[name] for name in ("key", "revision", "source", "license", "context_length", "files")},
            "longest_row": read_json(store.root / "dataset.json")["counts"]["longest_row"],
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.export.manifest import export_files

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
            out=place.out,
        )
        return {"agreement": read_json(reports["smoke"])["agreement"]}

    def done(record: Record, built: bool) -> None:
        from dlmbuild.store.manifest import append_run

        if built:
            run = {"quant": quant, "target": "ollama", "key": record.ingredients.key, "files": dict(record.outputs)}
            append_run(store.manifest, document.dlm_id, "exports", run)

    def summary(record: Record) -> str:
        model = document.name.lower()
        return (
            f"\n{document.name} as {quant} is in {folder}\n"
            f"  model.{quant}.gguf  the whole model    base.{quant}.gguf + adapter.gguf  the same in two parts\n"
            f'  ask it:      dlm prompt --export {quant} {document.name} "…"\n'
            f"  in Ollama:   ollama create {model} -f {folder / 'Modelfile'} && ollama run {model}\n"
            f"  llama.cpp:   llama-server -m {folder / f'model.{quant}.gguf'}"
        )

    return Step(
        name=f"export:{document.name}:{quant}",
        doc=f"{document.name} as {quant}",
        rule="export/1",
        inputs={**big, **reports, "adapter": store.adapter / "adapter.json"},
        params=params,
        reads=(store.document, base.facts, store.root / "dataset.json"),
        outputs=Files({name: folder / name for name in (*big, "Modelfile", "export_manifest.json")}),
        work=work,
        lock_file=store.lock_file,
        archive=project.archive,
        clean=True,
        done=done,
        summary=summary,
    )


def _remove_all(project: Project) -> None:
    """`doit clean` removes the exports of every quantisation; adapters and history stay."""
    import shutil

    for document in project.documents:
        exports = document.store.root / "exports"
        if exports.is_dir():
            print(f"removing {exports}")
            shutil.rmtree(exports)
