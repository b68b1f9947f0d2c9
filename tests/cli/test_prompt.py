"""`dlm prompt`: what it refuses before anything is loaded, and what it says of a store that is damaged."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess

import pytest

from tests.workshop import SCRIPTS, Workshop

pytestmark = pytest.mark.model


@pytest.fixture
def here(workshop: Workshop) -> Workshop:
    """A project with one document that was never built."""
    workshop.document("tower", base="smollm2-135m")
    return workshop


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        *((["--temp", text], "0 or a number from 0.001 to 2") for text in ("nan", "inf", "-1", "1e-300", "2.1", "hot")),
        *((["--top-p", text], "a number above 0 and up to 1") for text in ("-1", "0", "7", "nan", "")),
        *((["--seed", text], "a whole number from 0 to 4294967294") for text in ("-1", "4294967295", "9" * 30, "1.5")),
        *((["--max-tokens", text], "a whole number from 1 to 32768") for text in ("0", "-5", "99999999999", "many")),
        (["--export", "Q9"], "Q4_K_M"),
        (["--export", "../.."], "Q4_K_M"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_no_number_for_it(here: Workshop, option: list[str], allowed: str) -> None:
    words = [f"{option[0]}={option[1]}"]
    told = here.dlm("prompt", *words, "tower", "Who?", code=2).err
    assert allowed in told and option[0] in told and "dlm prompt --help" in told


@pytest.mark.parametrize(
    ("typed", "advised"),
    [
        (["prompt", "tower", "who", "has", "the", "key"], ["prompt", "tower", "who has the key"]),
        (["prompt", "--temp", "0", "tower", "it's", "what?", "--seed", "1"], None),
        (["prompt", "tower", "who", "--seed", "1", "asks"], ["prompt", "tower", "who asks"]),
    ],
    ids=["plain", "with options", "an option between"],
)
def test_a_question_without_quotes(here: Workshop, typed: list[str], advised: list[str] | None) -> None:
    told = here.dlm(*typed, code=2).err
    assert told.startswith("the question is not in quotes: it came as ")
    advised = advised or ["prompt", "--temp", "0", "tower", "it's what?", "--seed", "1"]
    assert shlex.split(told.rpartition("→ ")[2]) == ["dlm", *advised]
    assert "\n  → doit train:tower\n" in here.shell(told.rpartition("→ ")[2], code=1).err


def test_an_adapter_that_is_in_no_mix(workshop: Workshop) -> None:
    more = "training: {adapters: {facts: {}, odd: {adapter: dora}}}\n"
    workshop.document("tower", base="smollm2-135m", more=more)
    told = workshop.dlm("prompt", "--mix", "facts=0.5,odd=1", "tower", "Who?", code=2).err
    assert told.startswith("tower:odd is in no mix: DoRA") and "GGUF" not in told


def test_a_question_that_is_not_text(here: Workshop) -> None:
    dlm = str(SCRIPTS / "dlm")
    for words, stdin in (([b"Wh\xff?"], b""), ([], b"Wh\xff?"), ([], b"W" * (1 << 20) + b"?")):
        done = subprocess.run(
            [dlm, "prompt", "tower", *words], cwd=here.folder, env=here.env(), input=stdin, capture_output=True
        )
        told = done.stderr.decode()
        assert done.returncode == 2 and told.startswith("the question is ") and "Traceback" not in told
        assert "its byte 3 is 0xff" in told or "too long" in told


def test_options_may_stand_between_and_behind(built: Workshop) -> None:
    short = ["--export", "Q4_K_M", "--max-tokens", "2"]
    answer = built.dlm("prompt", *short, "--temp", "0", "tower", "Who?").out
    assert built.dlm("prompt", "tower", *short, "--temp", "0", "Who?").out == answer
    assert built.dlm("prompt", "tower", "Who?", "--temp", "0", *short).out == answer
    assert built.dlm("prompt", *short, "--temp", "0", "--", "tower", "Who?").out == answer


def test_what_is_not_built_says_what_to_type_wherever_it_is_typed(here: Workshop) -> None:
    assert "\n  → doit train:tower\n" in here.dlm("prompt", "tower", "Who?", code=1).err
    elsewhere = here.folder.parent / "else where"
    elsewhere.mkdir()
    told = Workshop(elsewhere, here.home).dlm("prompt", "../project/tower.dlm", "Who?", code=1).err
    assert f"\n  → cd {here.folder} && doit train:tower\n" in told


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"export": 1, "system_prompt": null}', b"\xff", b"[" * 9999]
)
def test_a_damaged_document_is_mended_by_what_is_said(built: Workshop, content: bytes) -> None:
    path = built.store / "document.json"
    path.unlink()
    path.write_bytes(content)
    told = built.dlm("prompt", "--export", "Q4_K_M", "tower", "Who?", code=1).err
    assert told.startswith(f"{path}: the file is damaged: ")
    built.follow(told)
    built.dlm("prompt", "--export", "Q4_K_M", "--max-tokens", "2", "tower", "Who?")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_damaged_facts_of_the_base_are_mended_by_what_is_said(built: Workshop, content: bytes) -> None:
    # The base that the fixture was built on lies there as well.
    paths = list((built.home / "bases").glob("*/base.json"))
    for path in paths:
        path.unlink()
        path.write_bytes(content)
    told = built.dlm("prompt", "tower", "Who?", code=1).err
    (damaged,) = (path for path in paths if told.startswith(f"{path}: the file is damaged: "))
    built.follow(told)
    assert json.loads(damaged.read_bytes())["revision"]


@pytest.mark.parametrize("content", [b"", b"versions/../..", b"\xff"])
def test_a_pointer_that_names_no_adapter_is_mended_by_what_is_said(built: Workshop, content: bytes) -> None:
    (built.store / "adapter" / "current.txt").write_bytes(content)
    told = built.dlm("prompt", "tower", "Who?", code=1).err
    assert "current.txt names no adapter version" in told
    built.follow(told)
    assert (built.store / "adapter" / "current.txt").read_text() == "versions/v0001\n"


def test_an_adapter_is_never_put_on_another_base(built: Workshop) -> None:
    shutil.copytree(built.folder / "base", built.folder / "base2")
    config = built.folder / "base2" / "generation_config.json"
    config.write_text("{}")
    built.document("other", base="file:./base2")
    built.doit("plan:other")  # which brings the other base
    built.edit("tower", "base_model: file:./base", "base_model: file:./base2")
    told = built.dlm("prompt", "tower", "Who?", "--max-tokens", "2", code=1).err
    assert "the adapter of tower was trained on the base " in told and "or name that base again" in told
    assert built.dlm("prompt", "--base", "tower", "Who?", "--max-tokens", "2").out


@pytest.mark.parametrize("words", [[], ["--export", "Q4_K_M"]])
def test_a_question_longer_than_the_base_reads(built: Workshop, words: list[str]) -> None:
    told = built.dlm("prompt", *words, "tower", "Who trims the lamp? " * 500, code=2).err
    assert re.match(r"the question has \d{4} tokens, and the base reads 2048: ", told)
    assert told.endswith("\n  → shorten it\n")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off", "another one"])
def test_a_damaged_adapter_is_mended_by_what_is_said(built: Workshop, name: str, damage: str) -> None:
    path = built.store / "adapter" / "versions" / "v0001" / name
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[:100] if damage == "cut off" else whole.replace(b"0", b"1"))
    told = built.dlm("prompt", "tower", "Who?", code=1).err
    words = "is missing" if damage == "missing" else "was changed after it was built"
    assert told.startswith(f"the model cannot be asked yet: {path} {words}\n")
    built.follow(told)
    (mended,) = {v.read_text() for v in (built.store / "adapter").glob("current.txt")}
    assert (built.store / "adapter" / mended.strip() / name).read_bytes() == whole


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"files": []}'])
def test_a_damaged_index_of_the_adapter_is_mended_by_what_is_said(built: Workshop, content: bytes | None) -> None:
    path = built.store / "adapter" / "adapter.json"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    told = built.dlm("prompt", "tower", "Who?", code=1).err
    assert told.startswith(f"{path}: the file is damaged: ")
    built.follow(told)
    assert path.read_bytes() == whole
