"""base: a pretrained model as a checkpoint folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dlmbuild.base_models.reference import Reference
from dlmbuild.build.project import Project
from dlmbuild.build.step import Step, Workplace
from dlmbuild.io.digest import readable_json
from dlmbuild.store.layout import BaseFolder
from dlmbuild.store.outputs import Folder


def tasks(project: Project) -> Iterator[dict[str, Any]]:
    """fetch the pretrained models"""
    for reference, folder in project.bases():
        yield {"name": reference.key, **_base(reference, folder, project).task()}


def _base(reference: Reference, folder: BaseFolder, project: Project) -> Step:
    def params() -> Mapping[str, Any]:
        vouched = os.environ.get("DLM_PRE_TOKENIZER")
        given = {"pre_tokenizer": vouched} if vouched else {}
        if reference.kind == "package":
            return {"package": reference.pinned, **given}
        if reference.kind == "hub":
            return {"hub": {"id": reference.id, "revision": reference.revision}, **given}
        return given

    def work(place: Workplace) -> Mapping[str, Any]:
        from dlmbuild.base_models.license import accepted_by_environment, require_acceptance

        known = reference.known
        if known is not None:
            require_acceptance(known, accepted_by_environment())
        facts = place.run(
            "base",
            needs=("numpy", "gguf", "safetensors", "huggingface_hub"),
            inputs={},
            params={"reference": reference.as_data(), "pre_tokenizer": place.params.get("pre_tokenizer", "")},
            network=reference.kind in ("package", "hub"),
        )
        (place.out / "base.json").write_bytes(readable_json(facts))
        return {"source": facts["source"], "parameters": facts["parameters"]}

    def guard() -> None:
        # A link may have come since the base was built, or lie in a folder whose content was built elsewhere.
        if reference.kind != "folder" or not reference.path or not reference.path.is_dir():
            return
        if any(path.is_symlink() for path in reference.path.iterdir()):
            from dlmbuild.base_models.checkpoint import checkpoint_files

            checkpoint_files(reference.path)

    return Step(
        name=f"base:{reference.key}",
        doc=f"the pretrained model {reference.text}",
        rule="base/4",
        inputs=_files(reference),
        params=params,
        outputs=Folder(folder.facts),
        work=work,
        also_watched=lambda: [reference.path] if reference.path else [],  # a file may be added to a folder
        guard=guard,
        store=folder,
        archive=project.archive,
    )


def _files(reference: Reference) -> dict[str, Path]:
    """The files of a base that lies on this disk: they are compared by content like any source."""
    if reference.kind == "gguf" and reference.path and reference.path.is_file():
        return {reference.path.name: reference.path}
    if reference.kind == "folder" and reference.path and reference.path.is_dir():
        return {path.name: path for path in sorted(reference.path.iterdir()) if path.is_file()}
    return {}  # not on this disk, or not what it is said to be: fetching it says so
