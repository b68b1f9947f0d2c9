"""An export brought into a running Ollama: under a name of its own first, and under the real one once it is proven.

Whatever ends it, even a kill, leaves the real name as it was or bound to a model that passed; what a killed attempt
left under the other name is deleted by the next one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import DlmError, ExportError
from dlmbuild.export.ollama.client import OllamaServer
from dlmbuild.export.ollama.smoke import require_same
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import readable_json
from dlmbuild.io.progress import Progress

_LONGEST_NAME = 80
_BUILDING = ".building"


def model_name(document: str, quant: str) -> str:
    """What an export is called in Ollama, whose names have no capitals. Raises ExportError for one that is too long."""
    if len(document) > _LONGEST_NAME:
        raise ExportError(f"{document} is too long for Ollama", why=f"names have at most {_LONGEST_NAME} characters")
    return f"{document.lower()}:{quant.lower()}"


def register(
    name: str,
    model: Path,
    manifest: Mapping[str, Any],
    expect: Callable[[], Mapping[str, Any]],
    noted: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Register `model` as `name` in Ollama, held to the export's `manifest` and to what `expect` finds out.

    That is `smoke.expected_answers`; it is called once the server has turned out to take the model. `noted` is a file
    of ours that says what was registered, so that nobody else's model of that name is replaced. Returns {"name",
    "version", "digest", "uploaded", "compared"}; `digest` is the server's own name for the result.
    """
    server = OllamaServer()
    settings = manifest["ollama"]
    server.require(template=settings["template"] is not None)
    ours = _noted(noted)
    if (there := server.digest(name)) and there not in ours.get(name, []):
        raise ExportError(
            f"the Ollama at {server.address} has another model called {name}",
            why="it was not registered from here, and would be lost",
            do=f"keep it as something else (ollama cp {name} NAME), then: ollama rm {name}",
        )
    building = f"{name}{_BUILDING}"
    expected = expect()
    sha256 = manifest["files"][model.name]["sha256"]
    progress("uploading the model to Ollama")
    uploaded = server.upload(model, sha256)
    try:
        progress("creating the model in Ollama")
        server.create(building, model.name, sha256, settings)
        compared = require_same(server, building, settings, expected, progress)
        digest = server.digest(building)
        # Before the name moves: a kill in between must not make the model a stranger's.
        write_atomic(noted, readable_json({**ours, name: [*ours.get(name, []), digest][-2:]}))
        server.copy(building, name)
    finally:
        with contextlib.suppress(DlmError):  # where nothing was created, or nobody answers any more
            server.delete(building)
    return {
        "name": name,
        "version": server.version,
        "digest": digest,
        "uploaded": uploaded,
        "compared": compared,
    }


def missing(name: str, digest: str) -> str:
    """Whether Ollama still has what was registered, in words: "" if it has. Never raises."""
    try:
        found = OllamaServer().digest(name)
    except DlmError as error:
        return error.what
    except ImportError:
        return "the Python package ollama is not installed"
    if not found:
        return f"Ollama has no {name}"
    return "" if found == digest else f"{name} in Ollama is another model by now"


def _noted(file: Path) -> dict[str, list[str]]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
