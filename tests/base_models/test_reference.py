from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbuild.base_models.reference import parse_reference
from dlmbuild.base_models.registry import row
from dlmbuild.errors import BaseModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_row_with_a_package_comes_from_it(tmp_path: Path) -> None:
    reference = parse_reference("smollm2-135m", tmp_path)
    assert (reference.kind, reference.key, reference.row) == ("package", "smollm2-135m", "smollm2-135m")


def test_the_hub_copy_of_such_a_row_is_another_base(tmp_path: Path) -> None:
    reference = parse_reference("smollm2-135m@hub", tmp_path)
    assert (reference.kind, reference.key) == ("hub", "smollm2-135m-hub")
    assert (reference.id, reference.revision) == (row("smollm2-135m").id, row("smollm2-135m").revision)


def test_a_row_without_a_package_is_the_hub_copy_in_both_spellings(tmp_path: Path) -> None:
    plain, asked = parse_reference("qwen3-4b", tmp_path), parse_reference("qwen3-4b@hub", tmp_path)
    assert plain.kind == asked.kind == "hub" and plain.key == asked.key == "qwen3-4b"


@pytest.mark.parametrize("revision", [COMMIT, "main", "v1.0", "refs/pr/7"])
def test_a_model_of_the_hub(tmp_path: Path, revision: str) -> None:
    reference = parse_reference(f"hf:org-1/a_model.v2@{revision}", tmp_path)
    assert (reference.kind, reference.id, reference.revision) == ("hub", "org-1/a_model.v2", revision)
    assert re.fullmatch(r"hf-org-1-a_model\.v2-[0-9a-f]{8}", reference.key)
    assert reference.row is None and reference.path is None


def test_hub_keys_tell_revisions_and_lookalikes_apart(tmp_path: Path) -> None:
    texts = ["hf:a/b-c@main", "hf:a-b/c@main", "hf:a/b-c@v1", "hf:A/b-c@main"]
    assert len({parse_reference(text, tmp_path).key for text in texts}) == len(texts)


def test_a_folder_and_a_file_start_at_the_document(tmp_path: Path) -> None:
    folder = parse_reference("file:./my base", tmp_path / "documents")
    assert (folder.kind, folder.path) == ("folder", tmp_path / "documents" / "my base")
    assert re.fullmatch(r"file-my-base-[0-9a-f]{8}", folder.key)
    gguf = parse_reference("gguf:../models/tiny.Q4_0.gguf", tmp_path / "documents")
    assert (gguf.kind, gguf.path) == ("gguf", tmp_path / "models" / "tiny.Q4_0.gguf")
    assert re.fullmatch(r"gguf-tiny\.Q4_0-[0-9a-f]{8}", gguf.key)


def test_one_place_has_one_key_and_two_places_have_two(tmp_path: Path) -> None:
    same = [
        parse_reference(text, tmp_path / "a").key
        for text in ("file:./base", "file:base", f"file:{tmp_path}/a/x/../base")
    ]
    assert len(set(same)) == 1
    assert parse_reference("file:./base", tmp_path / "b").key != same[0]
    assert parse_reference("gguf:./base", tmp_path / "a").key != same[0]


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_reference("gguf:~/m.gguf", Path("/elsewhere")).path == tmp_path / "m.gguf"


@pytest.mark.parametrize(
    ("text", "what", "do"),
    [
        ("", "names no base model", "smollm2-135m"),
        ("  ", "names no base model", "smollm2-135m"),
        ("smollm2\n-135m", "names no base model", "smollm2-135m"),
        ("file:./a\0b", "names no base model", "smollm2-135m"),
        ("smollm2-135", "unknown base model", "smollm2-135m"),
        ("smollm2-135m@main", "unknown source 'main'", "hf:HuggingFaceTB/SmolLM2-135M-Instruct@main"),
        ("smollm2-135m@", "unknown source ''", "smollm2-135m@hub"),
        ("org/name", "unknown base model", "hf:org/name@"),
        ("org/name@main", "unknown base model", "write hf:org/name@main"),
        ("./folder", "unknown base model", "write file:./folder"),
        ("~/m.gguf", "unknown base model", "write gguf:~/m.gguf"),
        ("hf:gpt2@main", "names no model of the hub", "hf:org/name@revision"),
        ("hf:a/b/c@main", "names no model of the hub", "hf:org/name@revision"),
        ("hf:../b@main", "names no model of the hub", "hf:org/name@revision"),
        ("hf:a/b--c@main", "names no model of the hub", "hf:org/name@revision"),
        ("hf:org/name", "has no revision", "hf:org/name@main"),
        ("hf:org/name@", "has no revision", "https://huggingface.co/org/name/commits/main"),
        ("hf:Qwen/Qwen3-4B", "has no revision", "write qwen3-4b"),
        ("hf:HuggingFaceTB/SmolLM2-135M-Instruct", "has no revision", "write smollm2-135m@hub"),
        ("hf:org/name@../../x", "is no revision", "hf:org/name@main"),
        ("hf:org/name@a b", "is no revision", "hf:org/name@main"),
        ("file:", "names no file", "file:./name"),
        ("gguf:  ", "names no file", "gguf:./name"),
        ("file:///tmp/base", "names no file", "absolute/path"),
        ("file:~nobody-of-that-name/base", "cannot be followed", "another path"),
        ("pypi:package==1", "unknown kind of base model 'pypi:'", "hf:org/name@revision"),
        ("https://huggingface.co/org/name", "unknown kind of base model 'https:'", "hf:org/name@revision"),
    ],
)
def test_what_is_badly_written_is_refused_with_what_to_write(tmp_path: Path, text: str, what: str, do: str) -> None:
    with pytest.raises(BaseModelError) as raised:
        parse_reference(text, tmp_path)
    assert what in raised.value.what
    assert do in raised.value.do


@given(st.one_of(st.text(), st.builds("{}:{}".format, st.sampled_from(["hf", "file", "gguf", ""]), st.text())))
def test_any_text_gives_a_safe_key_or_an_error_of_ours(text: str) -> None:
    try:
        reference = parse_reference(text, Path("/documents"))
    except BaseModelError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", reference.key) and len(reference.key) < 80


def test_a_build_graph_can_read_references_with_the_standard_library_alone() -> None:
    code = """
import sys
from pathlib import Path
before = set(sys.modules)
from dlmbuild.base_models.reference import parse_reference
parse_reference("smollm2-135m", Path("."))
print(*(sorted({m.partition(".")[0] for m in set(sys.modules) - before} - sys.stdlib_module_names - {"dlmbuild"})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
