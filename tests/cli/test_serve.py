"""`dlm serve`: asked over HTTP, whole and in two parts, and stopped; and what it refuses before it loads anything."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from tests.workshop import Workshop

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(address: str) -> str:
    asked = {"messages": [{"role": "user", "content": "Who trims the lamp?"}], "max_tokens": 8, "logprobs": True}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with OPENER.open(request, timeout=60) as reply:
        return str(json.loads(reply.read())["choices"][0]["logprobs"]["content"])


@pytest.mark.parametrize(("words", "number"), [([], signal.SIGINT), (["--base-and-adapter"], signal.SIGTERM)])
def test_it_answers_until_it_is_stopped(built: Workshop, words: list[str], number: int) -> None:
    port = free_port()
    server = built.start("dlm", "serve", "tower", "--port", str(port), *words, alone=True)
    try:
        assert server.stdout is not None
        first, curl = server.stdout.readline(), server.stdout.readline()
        address = f"http://127.0.0.1:{port}"
        assert first.startswith(f"tower answers at {address} ")
        assert ask(address) == ask(address)  # the document's temperature is 0
        asked = shlex.split(curl.replace("…?", "Who?"))
        done = subprocess.run([asked[0], "-s", *asked[1:]], capture_output=True, text=True, timeout=60, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"
    finally:
        server.send_signal(number)
        _, err = server.communicate(timeout=30)
    assert (server.returncode, err) == (0, "\nstopped\n")
    with pytest.raises(urllib.error.URLError):
        ask(address)


def test_it_listens_to_this_machine_unless_told_twice(built: Workshop) -> None:
    err = built.dlm("serve", "tower", "--host", "0.0.0.0", code=2).err
    assert "lets others than this machine ask the model" in err and "--anyone" in err


def test_a_port_that_is_taken(built: Workshop) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        err = built.dlm("serve", "tower", "--port", str(port), code=2).err
    assert re.search(rf"nothing can be served at 127\.0\.0\.1:{port}: .*in use\n  → name another one: --port", err)


def test_no_such_export(built: Workshop) -> None:
    ran = built.dlm("serve", "tower", "--quant", "Q8_0", code=1)
    assert ran.err == "tower has no export Q8_0\n  → doit export:tower:Q8_0\n"
