"""Questions as long as a base reads, and longer ones; and what an export is sampled with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.rows import conversation
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import UsageError
from dlmbuild.export.conversion import convert_base
from dlmbuild.inference.generate import answer_with_adapter
from dlmbuild.io.progress import silent
from tests.tiny import make_tiny_base

pytestmark = pytest.mark.model
SCRIPT = """
import json, sys
from pathlib import Path
from dlmbuild.errors import DlmError
from dlmbuild.inference.generate import answer_with_export
from dlmbuild.io.progress import silent
how = json.loads(sys.stdin.read())
try:
    told = answer_with_export(model=Path(sys.argv[1]), system_prompt=None, out=Path(), progress=silent, **how)
except DlmError as error:
    told = {"error": str(error)}
print(json.dumps(told), flush=True)
"""


def base_that_reads(folder: Path, tokens: int) -> Path:
    make_tiny_base(folder, layers=1)
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": tokens}))
    return folder


def asked_of_export(base: Path, **how: Any) -> dict[str, Any]:
    model = base.with_suffix(".gguf")
    convert_base(base, model, name="tiny")
    command = [sys.executable, "-c", SCRIPT, str(model)]
    done = subprocess.run(command, input=json.dumps(how), capture_output=True, text=True, check=True, timeout=300)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def sampling(max_tokens: int) -> dict[str, float]:
    return {"temperature": 0, "top_p": 1.0, "seed": 1, "max_tokens": max_tokens}


def length(base: Path, question: str) -> int:
    tokenizer = Tokenizer.from_base(base)
    return len(tokenizer.encode_pieces(tokenizer.question(conversation(question, None, None))))


def test_an_answer_ends_where_the_base_does(tmp_path: Path) -> None:
    base = base_that_reads(tmp_path / "base", 64)
    question = "Who trims the lamp? "
    room = 64 - length(base, question)
    assert 4 < room < 60

    def answers(question: str, most: int) -> list[str]:
        how: dict[str, Any] = {"system_prompt": None, "sampling": sampling(most), "out": tmp_path, "progress": silent}
        told: list[str] = answer_with_adapter(base=base, questions=[question], **how)["answers"]
        return told

    assert answers(question, room) == answers(question, 500) != answers(question, room - 2)
    long = question * 20
    with pytest.raises(UsageError, match=f"the question has {length(base, long)} tokens, and the base reads 64"):
        answers(long, 1)
    said = asked_of_export(base, questions=[long], sampling=sampling(1))["error"]
    assert f"the question has {length(base, long)} tokens, and the base reads 64" in said
    assert said.endswith("\n  → shorten it")


def test_an_export_is_asked_what_the_base_reads(tmp_path: Path) -> None:
    base = base_that_reads(tmp_path / "base", 8192)
    question = "Who trims the lamp? " * 900
    assert 4500 < length(base, question) < 8192
    (answer,) = asked_of_export(base, questions=[question], sampling=sampling(8))["answers"]
    assert answer


def test_an_export_is_sampled_from_all_tokens_as_the_trained_model_is(tmp_path: Path) -> None:
    base = base_that_reads(tmp_path / "base", 256)
    drawn = """
import json, sys
from pathlib import Path
from dlmbuild.inference.llama_cpp import LlamaCpp
runtime = LlamaCpp(Path(sys.argv[1]))
ids = runtime.question([{"role": "user", "content": "Who?"}])
said = {runtime.answer(ids, max_tokens=1, temperature=2.0, top_p=1.0, seed=seed) for seed in range(300)}
print(len(said), flush=True)
"""
    model = tmp_path / "model.gguf"
    convert_base(base, model, name="tiny")
    command = [sys.executable, "-c", drawn, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout.splitlines()[-1]) > 60  # of its own accord llama.cpp draws from 40
