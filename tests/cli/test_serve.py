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


def told_by(address: str, route: str) -> str:
    with OPENER.open(address + route, timeout=60) as reply:
        return str(reply.read().decode())


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
        routes = {route: told_by(address, route) for route in ("/v1/models", "/props", "/lora-adapters")}
        alias = re.search(r"--alias (\S+)", (built.store / "exports" / "Q4_K_M" / "llama-server.sh").read_text())
        assert alias and json.loads(routes["/v1/models"])["data"][0]["id"] == alias[1]
        assert [route for route, told in routes.items() if str(built.home) in told] == []
        drawn = json.loads(routes["/props"])["default_generation_settings"]["params"]
        assert (drawn["top_k"], drawn["min_p"], drawn["top_p"]) == (0, 0, 1)
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


def test_a_host_that_is_not_this_machines(built: Workshop) -> None:
    for host in ("192.0.2.1", "nowhere.invalid", "2001:db8::1", "a" * 70):
        err = built.dlm("serve", "tower", "--host", host, "--anyone", "--port", "18080", code=2).err
        shown = f"[{host}]" if ":" in host else host
        assert err.startswith(f"nothing can be served at {shown}:18080: ") and "Traceback" not in err
        assert err.endswith("\n  → name another one: --host 127.0.0.1\n")


def test_the_loopback_address_of_ipv6(built: Workshop) -> None:
    port = free_port()
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", port))
    except OSError:
        pytest.skip("this machine has no ::1")
    server = built.start("dlm", "serve", "tower", "--host", "::1", "--port", str(port), alone=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith(f"tower answers at http://[::1]:{port} ")
        assert ask(f"http://[::1]:{port}")
        err = built.dlm("serve", "tower", "--host", "::1", "--port", str(port), code=2).err
        assert re.search(rf"served at \[::1\]:{port}: .*in use\n  → name another one: --port", err)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"ollama": {"parameters": {}, "system": null}}'])
def test_a_damaged_manifest_is_mended_by_what_is_said(built: Workshop, content: bytes) -> None:
    path = built.store / "exports" / "Q4_K_M" / "export_manifest.json"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    err = built.dlm("serve", "tower", "--port", str(free_port()), code=1).err
    assert err.startswith(f"{path}: the file is damaged: ")
    built.follow(err)
    assert path.read_bytes() == whole


def test_no_such_export(built: Workshop) -> None:
    ran = built.dlm("serve", "tower", "--quant", "Q8_0", code=1)
    assert ran.err == "tower has no export Q8_0\n  → doit export:tower:Q8_0\n"
