"""Stands in for `llama-server`: knows the options that our script gives it, and serves with xllamacpp as they say.

It starts with a python line that the test writes in front.
"""

import argparse
import threading
from pathlib import Path

from dlmbuild.inference.llama_cpp import start_server

parser = argparse.ArgumentParser(allow_abbrev=False)
for name in ("--model", "--lora", "--host", "--alias", "--model-draft"):
    parser.add_argument(name)
for name in ("--port", "--ctx-size", "--parallel", "--seed", "--top-k"):
    parser.add_argument(name, type=int, required=True)
for name in ("--temp", "--top-p", "--min-p"):
    parser.add_argument(name, type=float, required=True)
for name in ("--jinja", "--swa-full", "--no-slots"):
    parser.add_argument(name, action="store_true", required=True)

if __name__ == "__main__":
    told = parser.parse_args()
    server = start_server(
        Path(told.model),
        lora=Path(told.lora) if told.lora else None,
        context=told.ctx_size,
        address=(told.host, told.port),
        sampling={"temperature": told.temp, "top_p": told.top_p, "seed": told.seed},
    )
    print(server.listening_address, flush=True)
    threading.Event().wait()
