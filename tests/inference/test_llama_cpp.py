"""What llama.cpp's server is asked for, held to its library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dlmbuild.export.conversion import convert_base
from tests.export.test_llama_cpp import prompts
from tests.tiny import make_tiny_base

pytest.importorskip("xllamacpp")

COUNT = 8
SCRIPT = """
import json, sys
from pathlib import Path
from dlmbuild.inference.libllama import LibLlama
from dlmbuild.inference.llama_cpp import LlamaCpp
model, asked, count = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
server, library, found = LlamaCpp(model, context=256), LibLlama(model, longest=100), []
for ids in asked:
    said = list(server.likeliest(ids, count))
    rows = library.next_tokens([*ids, *(token for token, _, _ in said)], len(ids))
    found.append([said, [[row.argmax().item(), row.max() - sorted(row)[-2]] for row in rows]])
print(json.dumps(found), flush=True)
"""


def test_the_likeliest_continuation_ends_before_a_part_of_a_character(tmp_path: Path) -> None:
    base, model = tmp_path / "base", tmp_path / "model.gguf"
    make_tiny_base(base)
    convert_base(base, model, name="tiny")
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    command = [sys.executable, "-c", SCRIPT, str(model), json.dumps(prompts(base)), str(COUNT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    ends = set()
    for said, wanted in json.loads(done.stdout.splitlines()[-1]):
        assert [token for token, _, _ in said] == [token for token, _ in wanted[:-1]]
        assert [lead for _, _, lead in said] == pytest.approx([lead for _, lead in wanted[:-1]], abs=0.02)
        assert "\ufffd" not in "".join(text for _, text, _ in said)
        assert [text for _, text, _ in said] == [tokenizer.decode([token]) for token, _, _ in said]
        ends.add("count" if len(said) == COUNT else tokenizer.decode([wanted[-1][0]]))
    assert ends == {"count", "\ufffd"}
