"""A model served over HTTP by llama.cpp, with the routes of OpenAI's API, until somebody ends the process."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from dlmbuild.inference.llama_cpp import start_server
from dlmbuild.io.progress import Progress


def serve(
    *,
    model: Path,
    host: str,
    port: int,
    alias: str,
    context: int,
    sampling: dict[str, float],
    out: Path,
    progress: Progress,
    lora: Path | None = None,
) -> dict[str, Any]:
    """Serve `model`, with `lora` on top, at `host`:`port`; tells its address as progress once it answers.

    `alias` is what it is called there, and no path of this machine is told to whoever asks. `sampling` (temperature,
    top_p, seed) is what holds where a request says nothing else. Never returns by itself.
    """
    progress("loading the model into llama.cpp")
    os.chdir(model.parent)  # /props and /lora-adapters tell the paths that were loaded
    server = start_server(
        Path(model.name),
        lora=Path(os.path.relpath(lora)) if lora else None,
        context=context,
        address=(host, port),
        sampling=sampling,
        alias=alias,
    )
    progress(server.listening_address)
    threading.Event().wait()
    return {}
