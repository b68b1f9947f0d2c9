"""A base from the Hugging Face hub, through huggingface_hub: its cache, token, offline switch and endpoint hold.

Only configuration, tokenizer and safetensors are fetched. The hub is asked once, without retries, what the revision is
and which files it has; that one question says at once whether the network, the model, the revision and the right to
read it are there, and how much is going to be downloaded.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from dlmbuild.base_models.checkpoint import CONFIG, OPTIONAL, TOKENIZER, WEIGHTS, require_space
from dlmbuild.base_models.convertible import require_architecture
from dlmbuild.base_models.reference import Reference
from dlmbuild.errors import BaseModelError, Where
from dlmbuild.io.progress import Progress
from dlmbuild.io.safetensors_file import INDEX

_SECONDS_TO_ANSWER = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PATTERNS = [CONFIG, TOKENIZER, WEIGHTS, INDEX, "model-*-of-*.safetensors", *OPTIONAL]


def snapshot(reference: Reference, progress: Progress) -> tuple[Path, str]:
    """The folder of the hub's cache that holds a model, complete, and the commit it is of.

    A commit that is in the cache already is used from there if the hub cannot be asked; a branch or tag is not, because
    it may have moved, unless HF_HUB_OFFLINE says that this is meant.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        return _download(reference, progress)
    except (HTTPError, EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, RuntimeError) as error:
        if isinstance(error, OfflineModeIsEnabled) or _COMMIT.fullmatch(reference.revision):
            cached = _from_cache(reference)
            if cached is not None:
                return cached, cached.name
        raise _explained(error, reference) from None


def _download(reference: Reference, progress: Progress) -> tuple[Path, str]:
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        progress(f"looking for {reference.id} in the hub's cache")
    else:
        progress(f"asking {constants.ENDPOINT} for {reference.id}")
    info = HfApi().model_info(
        reference.id, revision=reference.revision, files_metadata=True, timeout=_SECONDS_TO_ANSWER
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if _taken(file.rfilename)}
    if info.sha is None or not any(name.endswith(".safetensors") for name in sizes):
        raise BaseModelError(
            f"{reference.id} at {reference.revision} has no model.safetensors",
            why="weights in other formats are pickles, which can run code when they are loaded",
            do="choose a model that is published as safetensors, or a GGUF of it: gguf:./file.gguf",
        )
    told = (info.config or {}).get("architectures")
    if isinstance(told, list) and len(told) == 1:  # else config.json itself is going to be refused
        require_architecture(str(told[0]), Where(reference.text))
    cache = Path(constants.HF_HUB_CACHE)
    there = cache / f"models--{reference.id.replace('/', '--')}" / "snapshots" / info.sha
    needed = sum(size for name, size in sizes.items() if not (there / name).exists())
    require_space(cache, needed)
    folder = snapshot_download(
        reference.id,
        revision=info.sha,
        allow_patterns=sorted(sizes),
        etag_timeout=_SECONDS_TO_ANSWER,
        tqdm_class=_bar(f"downloading {reference.id}", needed, progress),
    )
    return Path(folder), info.sha


def _taken(name: str) -> bool:
    return name in _PATTERNS or _SHARD.fullmatch(name) is not None


def _from_cache(reference: Reference) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                reference.id, revision=reference.revision, allow_patterns=_PATTERNS, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None


def _bar(what: str, total: int, progress: Progress) -> type[Any]:
    """huggingface_hub draws through tqdm classes; this one hands the bytes on instead.

    There is a bar for what came over the wire and one for what is on disk; the further one counts.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    furthest = 0.0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO()})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            nonlocal furthest
            if self.unit == "B" and total:
                furthest = min(max(furthest, float(self.n)), total)
                progress(what, furthest, total)

    return Bar


def _explained(error: Exception, reference: Reference) -> BaseModelError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = f"{reference.id} at {reference.revision}"
    page = f"{constants.ENDPOINT}/{reference.id}"
    login = "log in with `hf auth login` or set HF_TOKEN"
    known = reference.known
    packaged = f"; or write base_model: {known.key} for the packaged copy" if known and known.package else ""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, OfflineModeIsEnabled):
        return BaseModelError(
            f"{what} is not in the hub's cache {constants.HF_HUB_CACHE}",
            why="it is missing or incomplete there, and HF_HUB_OFFLINE forbids to fetch it",
            do=f"unset HF_HUB_OFFLINE once, or run `hf download {reference.id} --revision {reference.revision}` "
            f"where there is a network{packaged}",
        )
    if isinstance(error, GatedRepoError) or status == 403:
        return BaseModelError(
            f"{what} may not be read",
            why="its makers ask everybody to accept their terms first",
            do=f"accept them at {page}, then {login}{packaged}",
        )
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return BaseModelError(
            f"no model {reference.id} on the hub",
            why="it does not exist, it is private, or the token is not valid",
            do=f"look for it at {page}; if it is private, {login}{packaged}",
        )
    if isinstance(error, RevisionNotFoundError):
        return BaseModelError(
            f"no revision {reference.revision!r} of {reference.id}",
            why="the hub knows no such commit, tag or branch",
            do=f"take one from {page}/commits/main",
        )
    if isinstance(error, EntryNotFoundError) and not status:
        why = "the download broke off; what was fetched is kept"
    elif status:
        why = f"the hub answered with status {status}"
    else:
        why = str(error) or type(error).__name__
    # A commit in the cache would have been used; what a branch or tag means there is for the person to say.
    cached = "" if _COMMIT.fullmatch(reference.revision) else ", or set HF_HUB_OFFLINE=1 to use what its cache holds"
    return BaseModelError(
        f"{what} could not be fetched from {constants.ENDPOINT}",
        why=why,
        do=f"try again when the hub can be reached{cached}{packaged}",
    )
