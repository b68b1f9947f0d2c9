"""Answer over HTTP from an export: llama.cpp's server, with the routes of OpenAI's API, until Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import signal
import socket
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from dlmbuild.cli.built import as_built, build
from dlmbuild.cli.words import whole
from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.errors import StoreError, UsageError

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    from dlmbuild.export.lineage import title_of
    from dlmbuild.hardware.detect import this_machine
    from dlmbuild.jobs.local import require_extra, run_job

    if arguments.host not in _LOOPBACK and not arguments.anyone:
        raise UsageError(
            f"--host {arguments.host} lets others than this machine ask the model",
            why="the server asks for no password",
            do="leave --host out, or add --anyone if that is meant",
        )
    project, found = find_document(arguments.document, Path.cwd())
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
    manifest, task = folder / "export_manifest.json", f"export:{trained.title}:{quant}"
    if not all(path.exists() for path in (*inputs.values(), manifest)):
        raise StoreError(f"{trained.title} has no export {quant}", do=build(project, task))
    require_extra("xllamacpp")
    _require_free(arguments.host, arguments.port)
    with as_built(manifest, project, task):
        told = read_json(manifest)
        system, parameters = told["ollama"]["system"], told["ollama"]["parameters"]
        params = {
            "host": arguments.host,
            "port": arguments.port,
            "alias": title_of(told),
            "context": int(parameters["num_ctx"]),
            "sampling": {
                "temperature": float(parameters["temperature"]),
                "top_p": float(parameters.get("top_p", 1.0)),
                "seed": int(parameters["seed"]),
            },
        }

    def tell(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
        if what.startswith("http"):
            print(_greeting(what, trained.title, system), flush=True)
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
                params=params,
                out=Path(out),
                log=found.store.logs / "serve.log",
                progress=tell,
                threads=this_machine().cores,
            )
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
    return 0


def _require_free(host: str, port: int) -> None:
    """Refuse in words a host that is not this machine's, and a port that somebody has: llama.cpp would just end."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        of_port = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES)
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        do = "name another one: --port 8081" if of_port else "name another one: --host 127.0.0.1"
        raise UsageError(f"nothing can be served at {at}", why=str(error), do=do) from None


def _greeting(address: str, name: str, system: str | None) -> str:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    asked = json.dumps({"messages": [*messages, {"role": "user", "content": "…?"}]}, ensure_ascii=False)
    return (
        f"{name} answers at {address} (Ctrl-C stops it), for example:\n"
        f"  curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(asked)}"
    )
