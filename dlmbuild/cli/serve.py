"""Answer over HTTP from an export: llama.cpp's server, with the routes of OpenAI's API, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from dlmbuild.cli.words import whole
from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.errors import StoreError, UsageError

_LOOPBACK = ("127.0.0.1", "localhost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", help="name of a document of this project, or its path")
    parser.add_argument(
        "--quant", choices=QUANTISATIONS, metavar="QUANT", help="the export, for example Q4_K_M (default: its default)"
    )
    parser.add_argument("--adapter", metavar="NAME", help="of a document that names adapters: this one, or this mix")
    parser.add_argument("--port", type=whole(1, 65535), default=8080, metavar="N", help="default 8080")
    parser.add_argument(
        "--base-and-adapter", action="store_true", help="load the export in two parts instead of the whole model"
    )
    parser.add_argument(
        "--host", default=_LOOPBACK[0], help="default 127.0.0.1, which only this machine reaches; others need --anyone"
    )
    parser.add_argument("--anyone", action="store_true", help="yes, whoever reaches --host may ask the model")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.build.project import find_document
    from dlmbuild.build.reading import read_json
    from dlmbuild.build.trained import chosen
    from dlmbuild.hardware.detect import this_machine
    from dlmbuild.jobs.local import require_extra, run_job

    if arguments.host not in _LOOPBACK and not arguments.anyone:
        raise UsageError(
            f"--host {arguments.host} lets others than this machine ask the model",
            why="the server asks for no password",
            do="leave --host out, or add --anyone if that is meant",
        )
    _, found = find_document(arguments.document, Path.cwd())
    trained = chosen(found, arguments.adapter)
    quant = arguments.quant or found.default_quant
    folder = trained.store.export(quant)
    if arguments.base_and_adapter and (why := trained.merged_alone(quant)):
        what = f"{trained.title} has no adapter beside its model"
        raise UsageError(what, why=why, do="leave --base-and-adapter out")
    names = {"model": f"base.{quant}.gguf", "lora": "adapter.gguf"}
    inputs = {
        role: folder / name
        for role, name in (names if arguments.base_and_adapter else {"model": f"model.{quant}.gguf"}).items()
    }
    manifest = folder / "export_manifest.json"
    if not all(path.exists() for path in (*inputs.values(), manifest)):
        raise StoreError(f"{trained.title} has no export {quant}", do=f"doit export:{trained.title}:{quant}")
    require_extra("xllamacpp")
    _require_free(arguments.host, arguments.port)
    settings = read_json(manifest)["ollama"]
    parameters = settings["parameters"]

    def tell(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
        if what.startswith("http"):
            print(_greeting(what, trained.title, settings["system"]), flush=True)
        elif sys.stderr.isatty():
            print(f"{what} …", file=sys.stderr)

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory() as out:
        try:
            run_job(
                "serve",
                inputs=inputs,
                params={
                    "host": arguments.host,
                    "port": arguments.port,
                    "context": parameters["num_ctx"],
                    "sampling": {"top_p": 1.0, **{n: parameters[n] for n in _SAMPLING if n in parameters}},
                },
                out=Path(out),
                log=found.store.logs / "serve.log",
                progress=tell,
                threads=this_machine().cores,
            )
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
    return 0


_SAMPLING = ("temperature", "top_p", "seed")


def _require_free(host: str, port: int) -> None:
    """Refuse in words a port that somebody has: llama.cpp would end the process."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"nothing can be served at {host}:{port}", why=str(error), do="name another one: --port 8081"
            ) from None


def _greeting(address: str, name: str, system: str | None) -> str:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    asked = json.dumps({"messages": [*messages, {"role": "user", "content": "…?"}]}, ensure_ascii=False)
    return (
        f"{name} answers at {address} (Ctrl-C stops it), for example:\n"
        f"  curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(asked)}"
    )
