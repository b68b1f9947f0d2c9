"""The launch script of an export, run: what it starts answers, whole and in two parts, to this machine alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_serve import ask, free_port
from tests.workshop import Workshop

pytestmark = pytest.mark.model
STAND_IN = Path(__file__).with_name("llama_server.py")


@pytest.fixture
def path_with_server(tmp_path: Path) -> str:
    """A PATH on which `llama-server` is xllamacpp's."""
    tools = tmp_path / "tools"
    tools.mkdir()
    program = tools / "llama-server"
    program.write_text(f"#!{sys.executable}\n{STAND_IN.read_text()}")
    program.chmod(0o755)
    return f"{tools}:/usr/bin:/bin"


def test_it_is_started_whole_and_in_two_parts(built: Workshop, path_with_server: str) -> None:
    folder = (built.store / "exports" / "Q4_K_M").rename(built.folder / "some where")
    answers = []
    for words in ([], ["--base-and-adapter"]):
        port = free_port()
        command = ["sh", str(folder / "llama-server.sh"), *words, "--port", str(port)]
        env = built.env(PATH=path_with_server, PYTHONPATH=str(Path(__file__).parent.parent))
        server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            assert server.stdout.readline().strip() == f"http://127.0.0.1:{port}", server.communicate()[1]
            answers.append(ask(f"http://127.0.0.1:{port}"))
        finally:
            server.kill()
            server.communicate()
    assert all(answers)


def test_its_options_are_those_of_the_pinned_llama_cpp(built: Workshop) -> None:
    import xllamacpp

    (library,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.*d" if sys.platform == "win32" else "xllamacpp*.so")
    parser = library.read_bytes()  # holds the names of all options of llama.cpp's programs
    text = (built.store / "exports" / "Q4_K_M" / "llama-server.sh").read_text()
    options = set(re.findall(r" (--[a-z-]+)", re.sub(r"^#.*", "", text, flags=re.MULTILINE))) - {"--base-and-adapter"}
    assert {"--model", "--lora", "--host", "--ctx-size"} < options
    assert [option for option in sorted(options) if option.encode() + b"\0" not in parser] == []
    assert "--host 127.0.0.1" in text and str(built.home) not in text and "tower" not in text
