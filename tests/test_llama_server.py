"""The launch script of an export, run: what it starts answers, whole and in two parts, to this machine alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import xllamacpp

from dlmbuild.export.conversion import convert_base
from dlmbuild.export.runtimes.llama_server import launch_script
from tests.cli.test_serve import ask, free_port
from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model
PARSER = b"".join(path.read_bytes() for path in Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
"""The pinned llama.cpp, in which the names of its programs' options stand."""
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
    text = (built.store / "exports" / "Q4_K_M" / "llama-server.sh").read_text()
    options = set(re.findall(r" (--[a-z-]+)", re.sub(r"^#.*", "", text, flags=re.MULTILINE))) - {"--base-and-adapter"}
    assert {"--model", "--lora", "--host", "--ctx-size"} < options
    assert [option for option in sorted(options) if option.encode() + b"\0" not in PARSER] == []
    assert "--top-p 1 --top-k 0 --min-p 0 " in text
    assert "--host 127.0.0.1" in text and str(built.home) not in text and "tower" not in text


def test_a_draft_is_used_where_it_has_been_built(tmp_path: Path) -> None:
    home, folder = tmp_path / "a home", tmp_path / "a home" / "store" / "id" / "exports" / "Q8_0"
    folder.mkdir(parents=True)
    parameters = {"temperature": 0.0, "num_ctx": 4096, "seed": 42}
    draft = "../../../../bases/smollm2-135m"
    (folder / "llama-server.sh").write_text(launch_script("Q8_0", "x", parameters, in_parts=False, draft=draft))
    program = tmp_path / "llama-server"
    program.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    program.chmod(0o755)

    def words() -> list[str]:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        command = ["sh", str(folder / "llama-server.sh"), "--port", "1"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    assert "--spec-draft-model" not in words()
    base = home / "bases" / "smollm2-135m"
    base.mkdir(parents=True)
    (base / "base.F16.gguf").touch()
    told = words()
    at = told.index("--spec-draft-model")
    assert told[at - 2 : at] == ["--spec-type", "draft-simple"] and told[-2:] == ["--port", "1"]
    assert Path(told[at + 1]).resolve() == base / "base.F16.gguf"
    assert all(option in PARSER for option in (b"--spec-draft-model\0", b"--spec-type\0", b"draft-simple\0"))


ANSWER = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 256, 1
if sys.argv[2:]:
    params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
    params.speculative.draft.mparams.path = sys.argv[2]
asked = {"prompt": "Who trims the lamp?", "n_predict": 24, "temperature": 0}
reply = xllamacpp.Server(params).handle_completions(asked)
print(json.dumps([reply["choices"][0]["text"], reply["timings"].get("draft_n", 0)]))
"""


def test_a_draft_changes_no_answer_and_one_with_other_tokens_is_not_asked(tmp_path: Path) -> None:
    """What llama.cpp does with --spec-type draft-simple, so that the script need not compare tokenizers."""
    for name, settings in {"model": {}, "same": {"seed": 1, "layers": 1}, "other": {"seed": 1, "vocab": 400}}.items():
        make_tiny_base(tmp_path / name, **settings)
        convert_base(tmp_path / name, tmp_path / f"{name}.gguf", name=name)

    def answer(*names: str) -> tuple[str, int]:
        command = [sys.executable, "-c", ANSWER, *(str(tmp_path / f"{name}.gguf") for name in names)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        text, drafted = json.loads(done.stdout.splitlines()[-1])
        return text, drafted

    alone, same, other = answer("model"), answer("model", "same"), answer("model", "other")
    assert alone[0] == same[0] == other[0]
    assert same[1] > 0 and alone[1] == other[1] == 0
