"""What a document's store holds, and what uses the disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlmbuild.errors import StoreError
from dlmbuild.store.layout import BaseFolder, Home, Store
from dlmbuild.store.manifest import read_manifest
from dlmbuild.store.outputs import AdapterVersions
from dlmbuild.store.runs import runs as all_runs


def describe_store(store: Store, dlm_id: str, named: Sequence[str] = ()) -> dict[str, Any]:
    """The adapter in use with the numbers of its own training, how many there are, the exports, the last run.

    Where the document names adapters or mixes, `named`, there is this of each of them under `adapters`.
    """
    told = {
        "exports": (exports := store.exported()),
        "compared": {
            name: found
            for name in exports
            if (found := _compared(store.root / "exports" / name / "export_manifest.json"))
        },
        "trainings": len(read_manifest(store.manifest, dlm_id)["training_runs"]),
        "last_run": attempts[-1].status if (attempts := all_runs(store)) else None,
    }
    if named:
        return {**told, "adapters": {name: _adapter(store.named(name), dlm_id) for name in named}}
    return {**_adapter(store, dlm_id), **told}


def _adapter(store: Store, dlm_id: str) -> dict[str, Any]:
    try:
        version: str | None = AdapterVersions(store.adapter).current().name
    except StoreError:
        version = None
    runs = [run for run in read_manifest(store.manifest, dlm_id)["training_runs"] if run.get("adapter", "") == store.of]
    in_place: Mapping[str, Any] = next((run for run in reversed(runs) if run.get("adapter_version") == version), {})
    known = ""
    with suppress(OSError, ValueError, KeyError, TypeError):
        report = json.loads((store.evaluation / "report.json").read_bytes())
        counts = {
            name: report["models"][report["shipped"]][name] for name in ("recall", "held_out", "probes", "retention")
        }
        known = ", ".join(
            f"{name.replace('_', ' ')} {count['right']}/{count['of']}" for name, count in counts.items() if count
        )
        known = f"{report['shipped']}: {known}"
    return {
        "adapter_version": version,
        "versions": len(AdapterVersions(store.adapter).versions()),
        "trained": in_place.get("ended_at"),
        "train_loss": in_place.get("train_loss"),
        "evaluation": known or None,
        **({"replayed_rows": in_place["replayed_rows"]} if in_place.get("replayed_rows") else {}),
        **({"validation": _validated(in_place)} if in_place.get("validation_rows") else {}),
        **({"went_on_from": _went_on(in_place["warm"])} if in_place.get("warm") else {}),
    }


def _compared(manifest: Path) -> dict[str, Any]:
    """How far an export is from the trained model, as its manifest says; empty where that is not known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        smoke = json.loads(manifest.read_bytes())["smoke"]
        return {name: smoke[name] for name in ("agreement", "kl", "perplexity")}
    return {}


def _validated(run: Mapping[str, Any]) -> str:
    """In words what was held out of a training and what it cost."""
    kept = f", epoch {run['kept_epoch']} of {run['epochs']} kept" if run.get("kept_epoch") != run.get("epochs") else ""
    return f"{run['validation_rows']} rows held out, loss {run['validation_loss']:.4f}{kept}"


def _went_on(warm: Mapping[str, Any]) -> str:
    """In words what a training went on from."""
    since = f"{warm['chain']} in a row" if warm["chain"] > 1 else "itself trained from the start"
    return f"{warm.get('from', 'a deleted version')} ({since}), {warm['changed_rows']} changed rows"


def disk_use(home: Home, store: Store, base: BaseFolder) -> dict[str, int]:
    """Bytes by kind. A file that lies under several names (a hard link) counts once, where it is found first."""
    places = {
        "adapters": store.adapter,
        "exports": store.root / "exports",
        "cache": store.cache,
        "history": store.replay,
        "base": base.root,
        "states of frozen layers": home.states,
        "objects and records of all documents": home.root,
    }
    seen: set[tuple[int, int]] = set()
    return {kind: _unseen(place.rglob("*"), seen) for kind, place in places.items()}


def _unseen(paths: Iterable[Path], seen: set[tuple[int, int]]) -> int:
    total = 0
    for path in paths:
        stat = path.lstat()
        if path.is_file() and (stat.st_dev, stat.st_ino) not in seen:
            seen.add((stat.st_dev, stat.st_ino))
            total += stat.st_size
    return total
