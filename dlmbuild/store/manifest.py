"""manifest.json: the running story of a document, its training runs and exports, with times.

Told after the fact from records; nothing is ever decided by it, so losing it costs the story and no more.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import readable_json

SCHEMA_VERSION = 1


def now() -> str:
    """The time as manifests and logs write it: UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_manifest(path: Path, dlm_id: str) -> dict[str, Any]:
    """The manifest, or a fresh one where there is none that can be read."""
    try:
        data = json.loads(path.read_bytes())
        if data["schema_version"] == SCHEMA_VERSION and data["dlm_id"] == dlm_id:
            runs = {kind: [dict(run) for run in data[kind]] for kind in ("training_runs", "exports")}
            return {**data, **runs}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {"schema_version": SCHEMA_VERSION, "dlm_id": dlm_id, "training_runs": [], "exports": []}


def append_run(path: Path, dlm_id: str, kind: str, run: dict[str, Any]) -> None:
    """Add a run to the list `kind` ("training_runs" or "exports"), numbered from 1 and stamped with the time.

    The caller holds the document's lock.
    """
    manifest = read_manifest(path, dlm_id)
    if path.exists() and not manifest["training_runs"] and not manifest["exports"]:  # none is ever written without
        path.replace(path.with_name(f"{path.name}.damaged"))  # a person may still read something in it
    runs = manifest[kind]
    runs.append({"run": len(runs) + 1, "ended_at": now(), **run})
    write_atomic(path, readable_json(manifest))
