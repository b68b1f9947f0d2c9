from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.export.manifest import export_files
from dlmbuild.io.digest import sha256_bytes, sha256_file
from tests.tiny import make_tiny_base

BASE = {
    "key": "tiny",
    "revision": "r1",
    "source": {"kind": "folder"},
    "license": {"spdx": "Apache-2.0", "url": "https://example.org"},
    "hub": None,
    "context_length": 8192,
    "files": {},
}
SETTINGS: dict[str, Any] = {
    "dlm_id": "01HZX3Q5J8K9M2N4P6R8T0V2W4",
    "quant": "Q8_0",
    "export": {"default_temperature": None, "default_top_p": None},
    "system_prompt": None,
    "base": BASE,
    "longest_row": 100,
    "draft": "",
}
SMOKE = {"agreeing": 9, "positions": 10, "kl": {"mean": 0.01}}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base", hidden=8, layers=1)
    return tmp_path / "base"


def export(checkpoint: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Write an export's small files; returns the manifest."""
    out.mkdir()
    digests = {}
    for name in ("model.Q8_0.gguf", "adapter.gguf"):
        (out / name).write_bytes(name.encode())
        digests[name] = sha256_bytes(name.encode())
    export_files(
        {**SETTINGS, **changes},
        adapter={"files": {"adapter_model.safetensors": "a" * 64}},
        checkpoint=checkpoint,
        digests=digests,
        parity={"agreement": 1.0},
        smoke=SMOKE,
        adds_bos=False,
        out=out,
    )
    manifest: dict[str, Any] = json.loads((out / "export_manifest.json").read_bytes())
    return manifest


def test_every_file_with_its_digest_and_size(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = export(checkpoint, out)
    others = {path.name for path in out.iterdir()} - {"export_manifest.json"}
    assert (
        set(manifest["files"])
        == others
        == {"model.Q8_0.gguf", "adapter.gguf", "Modelfile", "README.md", "llama-server.sh"}
    )
    for name, said in manifest["files"].items():
        assert said == {"sha256": sha256_file(out / name), "bytes": (out / name).stat().st_size}


def test_what_it_was_made_of(checkpoint: Path, tmp_path: Path) -> None:
    manifest = export(checkpoint, tmp_path / "out")
    assert manifest["dlm_id"] == SETTINGS["dlm_id"] and manifest["quant"] == "Q8_0"
    assert manifest["base"] == {name: BASE[name] for name in ("key", "revision", "source", "license", "hub")}
    assert manifest["adapter"] == {"adapter_model.safetensors": "a" * 64}
    assert manifest["parity"] == {"agreement": 1.0} and manifest["smoke"] == SMOKE


def test_the_same_bytes_in_another_place(checkpoint: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "base"
    shutil.copytree(checkpoint, moved)
    export(checkpoint, tmp_path / "a")
    export(moved, tmp_path / "b")
    for name in ("Modelfile", "README.md", "export_manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert str(tmp_path) not in (tmp_path / "a" / name).read_text()


def test_the_modelfile(checkpoint: Path, tmp_path: Path) -> None:
    settings = {"default_temperature": 0.5, "default_top_p": 0.9}
    export(checkpoint, tmp_path / "out", export=settings, system_prompt="Be brief.")
    text = (tmp_path / "out" / "Modelfile").read_text()
    head, template, rest = text.partition('TEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n')
    assert template and head + rest.partition('"""\n')[2] == (
        "# 01HZX3Q5J8K9M2N4P6R8T0V2W4 on tiny, Q8_0. Load with: ollama create <name> -f Modelfile\n"
        "FROM ./model.Q8_0.gguf\n"
        'PARAMETER stop "<|im_end|>"\n'
        "PARAMETER temperature 0.5\n"
        "PARAMETER top_p 0.9\n"
        "PARAMETER top_k 0\n"
        "PARAMETER min_p 0\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER seed 42\n"
        'SYSTEM """Be brief."""\n'
        'LICENSE """Apache-2.0 https://example.org"""\n'
    )


@pytest.mark.parametrize(("longest", "context", "expected"), [(3000, 8192, 6000), (100, 2048, 2048), (9, 9999, 4096)])
def test_the_context_holds_the_longest_row_twice(
    checkpoint: Path, tmp_path: Path, longest: int, context: int, expected: int
) -> None:
    base = {**BASE, "context_length": context, "license": None}
    export(checkpoint, tmp_path / "out", longest_row=longest, base=base)
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert f"PARAMETER num_ctx {expected}\n" in text and "LICENSE" not in text
