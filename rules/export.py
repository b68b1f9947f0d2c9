"""export: everything a runtime needs, in one folder; only what has passed parity and smoke gets here."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from doit.task import Task

from dlmbuild.build.clean import Clean, Exported
from dlmbuild.build.project import Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.step import Step, Workplace
from dlmbuild.build.trained import Trained, models
from dlmbuild.store.outputs import Files
from dlmbuild.store.records import Record

from .merge import weighed
from .shorter import Made, shorter


def tasks(project: Project) -> Iterator[dict[str, Any] | Task]:
    """build the exports that a runtime loads (the default quantisation of each document)"""
    said: set[Path] = set()

    def clean(made: Made) -> list[Clean]:
        return [Clean([Exported(trained.store.export(quant), _files(trained, quant)) for trained, quant in made], said)]

    for trained in models(project.documents):
        for quant in project.quantisations:
            task = _export(trained, quant, project).task()
            yield {"name": f"{trained.title}:{quant}", **task, "clean": clean([(trained, quant)])}
    yield from shorter("export", project, tasks.__doc__ or "", clean=clean)


def _named(trained: Trained) -> dict[str, Any]:
    """What an export says of which of the document's adapters it is."""
    if not trained.parts:
        return {"adapter": trained.name}
    return {"mix": trained.name, "weights": dict(trained.parts), "rank": trained.rank}


_NOT_OF_A_FILE = ("default_quant", "mixes", "imatrix")
"""What a document says under `export` about which exports there are."""


def _files(trained: Trained, quant: str) -> tuple[str, ...]:
    parts = () if trained.merged_alone(quant) else (f"base.{quant}.gguf", "adapter.gguf")
    return (*parts, f"model.{quant}.gguf", "Modelfile", "README.md", "llama-server.sh", "export_manifest.json")


def _export(trained: Trained, quant: str, project: Project) -> Step:
    document, store = trained.document, trained.store
    base = project.base_folder(document.base)
    folder = store.export(quant)
    big = {
        f"base.{quant}.gguf": base.gguf(quant),
        "adapter.gguf": store.cache / "adapter.gguf",
        f"model.{quant}.gguf": store.cache / f"model.{quant}.gguf",
    }
    big = {name: path for name, path in big.items() if name in _files(trained, quant)}
    reports = {"parity": store.cache / "parity.json", "smoke": store.cache / f"smoke.{quant}.json"}

    def params() -> Mapping[str, Any]:
        from dlmbuild.export.lineage import origin

        data, facts = read_json(store.document), read_json(base.facts)
        draft = known.draft if (known := document.base.known) else ""
        return {
            "dlm_id": document.dlm_id,
            "quant": quant,
            "export": {name: value for name, value in data["export"].items() if name not in _NOT_OF_A_FILE},
            "system_prompt": data["system_prompt"],
            "base": {
                **origin(facts, document.base),
                **{name: facts[name] for name in ("context_length", "files")},
            },
            "draft": os.path.relpath(project.archive.home.base(draft).root, folder) if draft else "",
            "longest_row": trained.longest_row(),
            **({"trained": _named(trained)} if trained.name else {}),
            **({"imatrix": True} if weighed(trained, quant) else {}),
            **({"method": "DoRA"} if trained.whole else {}),
        }

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.export.manifest import export_files
        from dlmbuild.io.gguf_file import read_header

        objects = project.archive.objects
        digests = {name: objects.keep(path) for name, path in big.items()}
        for name, sha256 in digests.items():
            objects.place(sha256, place.out / name)
        adapter, smoke = read_json(store.adapter / "adapter.json"), read_json(reports["smoke"])
        export_files(
            place.params,
            adapter=adapter,
            checkpoint=checkpoint(base),
            digests=digests,
            parity=read_json(reports["parity"]),
            smoke=smoke,
            adds_bos=bool(read_header(big[f"model.{quant}.gguf"]).metadata.get("tokenizer.ggml.add_bos_token")),
            out=place.out,
        )
        return {name: smoke[name] for name in ("agreement", "kl", "perplexity") if name in smoke}

    def done(record: Record, built: bool) -> None:
        from dlmbuild.store.manifest import append_run

        # What an earlier export of a plain LoRA left would be read as parts of this one.
        if trained.merged_alone(quant):
            for name in ("adapter.gguf", f"base.{quant}.gguf"):
                (folder / name).unlink(missing_ok=True)
        if built:
            run = {"quant": quant, "target": "ollama", "key": record.ingredients.key, "files": dict(record.outputs)}
            run |= {"adapter": trained.name} if trained.name else {}
            append_run(store.manifest, document.dlm_id, "exports", run)

    def summary(record: Record) -> str:
        from dlmbuild.export.parity import in_words

        model, name = shlex.quote(trained.title.replace(":", "-").lower()), shlex.quote(document.name)
        of = f"--adapter {trained.name} " if trained.name else ""
        modelfile, launch = (shlex.quote(str(folder / name)) for name in ("Modelfile", "llama-server.sh"))
        parts = f"base.{quant}.gguf + adapter.gguf  the same in two parts"
        if why := trained.merged_alone(quant):
            parts = f"without {'' if trained.whole else 'base and '}adapter.gguf: {why}"
        return (
            f"\n{trained.title} as {quant} is in {folder}\n"
            f"  model.{quant}.gguf  the whole model    {parts}\n"
            f"  measured:    {in_words(record.notes)}\n"
            f'  ask it:      dlm prompt --export {quant} {of}{name} "…"\n'
            f"  in Ollama:   doit ollama:{shlex.quote(trained.title)}:{quant}\n"
            f"               or: ollama create {model} -f {modelfile} && ollama run {model}\n"
            f"  llama.cpp:   sh {launch}"
        )

    return Step(
        name=f"export:{trained.title}:{quant}",
        doc=f"{trained.title} as {quant}",
        rule="export/5",
        inputs={**big, **reports, "adapter": store.adapter / "adapter.json"},
        params=params,
        reads=(store.document, base.facts, *trained.datasets.values()),
        outputs=Files({name: folder / name for name in _files(trained, quant)}),
        work=work,
        store=store,
        archive=project.archive,
        done=done,
        summary=summary,
    )
