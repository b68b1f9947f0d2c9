"""What `dlm check` prints for a person, for an editor and CI, and with --compat."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from dlmbuild.doc.quotation import quotation
from dlmbuild.errors import Where
from tests.workshop import Workshop

ID = "01HZX3Q5J8K9M2N4P6R8T0V2W4"
HEAD = f"---\ndlm_id: {ID}\ndlm_version: 15\nbase_model: smollm2-135m\n---\n"


def write(workshop: Workshop, text: str, name: str = "book") -> Path:
    path = workshop.folder / f"{name}.dlm"
    path.write_text(text)
    return path


def test_each_mistake_is_quoted_with_a_caret(workshop: Workshop) -> None:
    write(workshop, HEAD.replace("135m", "135") + "::instruction:: \n### A\n\tx\n")
    ran = workshop.dlm("check", code=1)
    assert ran.err == (
        "book.dlm:4:13: unknown base model 'smollm2-135': it is not a key of the registry\n"
        "    4 | base_model: smollm2-135\n"
        "      |             ^\n"
        "  → write smollm2-135m, smollm2-360m or smollm2-1.7b\n"
        "book.dlm:6:16: white space after a section fence: a fence ends its line\n"
        "    6 | ::instruction:: \n"
        "      |                ^\n"
        "  → delete it, or put the line into a code block to show it\n"
        "book.dlm:7:1: ### A without a ### Q before it: the order is ### Q, ### A\n"
        "    7 | ### A\n"
        "      | ^\n"
        "  → add ### Q\n"
    )
    assert ran.out == "0 of 1 documents are well written\n"


@pytest.mark.parametrize(
    ("line", "col", "quoted"),
    [
        ("abc", 2, "    7 | abc\n      |  ^"),
        ("a\tb\u200b", 4, "    7 | a b·\n      |    ^"),
        ("日本x", 3, "    7 | 日本x\n      |     ^"),
        ("e\u0301x", 3, "    7 | e\u0301x\n      |  ^"),
        ("abc", 0, "    7 | abc\n      | ^"),
        ("x" * 300, 1, f"    7 | {'x' * 100}…\n      | ^"),
        ("x" * 300, 300, f"    7 | …{'x' * 51}\n      | {' ' * 51}^"),
    ],
)
def test_quotation(line: str, col: int, quoted: str) -> None:
    assert quotation(line, Where("a.dlm", 7, col)) == quoted


@pytest.mark.parametrize(
    ("end", "quoted"),
    [
        (b"x\nca\xf1\xf2 \0\n", "    7 | ca\\xf1\\xf2 \\x00\n      |   ^\n"),
        (b"x\rca\0\tb", "    7 | ca\\x00 b\n      |   ^\n"),
        (b"\xe6\x97\xa5\0\n", "    6 | 日\\x00\n      |   ^\n"),
    ],
)
def test_bytes_that_are_no_text_are_quoted_too(workshop: Workshop, end: bytes, quoted: str) -> None:
    (workshop.folder / "book.dlm").write_bytes(HEAD.encode() + end)
    told = workshop.dlm("check", code=1).err
    assert told.startswith("book.dlm:") and f"\n{quoted}  → " in told
    (workshop.folder / "book.dlm").write_bytes(b"\xef\xbb\xbf\xff\xfe--\n")
    assert "    1 | \\xff\\xfe--\n      | ^\n" in workshop.dlm("check", code=1).err


def test_json(workshop: Workshop) -> None:
    write(workshop, HEAD + "text\n::instruction::\n### Q\nq\n### A\na\n")
    write(workshop, HEAD.replace(ID, f"{ID[:-1]}5") + '::image path="a.png"::\n', "picture")
    (workshop.folder / "a.png").write_bytes(b"picture")
    found = json.loads(workshop.dlm("check", "--format", "json", code=1).out)
    book, picture = found["documents"]
    text, questions = b"prose\ntext", b"instruction\n### Q\nq\n### A\na"
    assert book == {
        "path": "book.dlm",
        "errors": [],
        "elsewhere": [],
        "sources": [],
        "sections": [
            {"type": "prose", "line": 6, "id": hashlib.sha256(text).hexdigest()[:16]},
            {"type": "instruction", "line": 7, "id": hashlib.sha256(questions).hexdigest()[:16]},
        ],
    }
    sha256 = hashlib.sha256(b"picture").hexdigest()
    section = hashlib.sha256(f"image\na.png\n{sha256}".encode()).hexdigest()[:16]
    assert picture["sections"] == [{"type": "image", "line": 6, "id": section, "sha256": sha256}]
    assert picture["errors"] == [
        {
            "path": "picture.dlm",
            "line": 6,
            "col": 1,
            "what": "an ::image:: section",
            "why": "no base that this version builds on reads it",
            "do": "describe it in a ::prose:: section",
        }
    ]


def test_json_of_what_cannot_be_read(workshop: Workshop) -> None:
    (workshop.folder / "bytes.dlm").write_bytes(b"---\n\xff")
    found = json.loads(workshop.dlm("check", "bytes.dlm", "none.dlm", "--format", "json", code=1).out)
    assert [(d["errors"][0]["line"], d["sections"]) for d in found["documents"]] == [(2, []), (0, [])]


ELSEWHERE = """---
dlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4
dlm_version: 15
base_model: file:./base
system_prompt: yes
training: {seed: 0_7, lora_r: auto}
export: {default_quant: F16, default_temperature: 0}
---
text
````
```
::note::
```
````
::instruction::
### Q
q\u2028r
### A
    indented
    ### Q
```
### A
```
"""


def test_compat_says_what_the_public_parser_reads_in_another_way(workshop: Workshop) -> None:
    write(workshop, ELSEWHERE.replace("seed: 0_7, ", ""))
    (workshop.folder / "base").mkdir()
    (workshop.folder / "base" / "config.json").touch()
    found = json.loads(workshop.dlm("check", "--compat", "--format", "json").out)
    (document,) = found["documents"]
    assert document["errors"] == []
    assert [(note["line"], note["col"], note["what"]) for note in document["elsewhere"]] == [
        (
            1,
            1,
            "nothing is written for lora_alpha, lora_dropout, sequence_len, learning_rate, num_epochs, warmup_ratio",
        ),
        (4, 13, "base_model: file:./base"),
        (5, 16, "system_prompt: yes"),
        (6, 20, "training.lora_r: auto"),
        (7, 25, "export.default_quant: F16"),
        (7, 51, "export.default_temperature: 0"),
        (12, 1, "::note::"),
        (17, 2, "the character U+2028"),
        (19, 1, "white space at the beginning of a text"),
        (20, 1, "### Q"),
        (22, 1, "### A"),
    ]
    ran = workshop.dlm("check", "--compat")
    assert "book.dlm:12:1: elsewhere: ::note::: it takes this for a fence" in ran.out


def test_compat_knows_code_blocks_that_only_we_see(workshop: Workshop) -> None:
    keys = "".join(
        f"  {key}: {value}\n"
        for key, value in {
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.1,
            "sequence_len": 512,
            "learning_rate": 1e-4,
            "num_epochs": 3,
            "warmup_ratio": 0.1,
        }.items()
    )
    head = HEAD.replace("base_model", f"training:\n{keys}base_model")
    for body, line, why in [
        ("~~~\n::prose::\n~~~\n", 15, "it takes this for a fence"),
        ("```x```\n::prose::\nx\n", 15, "it takes this for code"),
        ("a ``` b\n```x```\n", 14, "it finds a code block that is never closed"),
    ]:
        write(workshop, head + body)
        (document,) = json.loads(workshop.dlm("check", "--compat", "--format", "json").out)["documents"]
        assert [(note["line"], note["why"]) for note in document["elsewhere"]] == [(line, why)]
    write(workshop, head + "```\n::prose::\n```\n::instruction::\n### Q !probe\nq\n### A\na\n")
    assert workshop.dlm("check", "--compat").out == "1 checked, all well written\n"


def test_a_check_loads_no_more_than_it_needs(workshop: Workshop) -> None:
    write(workshop, HEAD + "text\n")
    traced = workshop.dlm("check", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in traced.err.splitlines()}
    assert {"pydantic", "ruamel.yaml"} <= imported
    needless = {"difflib", "doit", "pathspec", "sqlite3", "subprocess", "asyncio"}
    assert not imported & {*needless, "dlmbuild.doc.sources", "dlmbuild.doc.quotation"}


def test_plugins_of_pydantic_are_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlmbuild.doc.schema import Frontmatter, validated

    values = {"dlm_id": "01HZX3Q5J8K9M2N4P6R8T0V2W4", "dlm_version": 15, "base_model": "x"}
    for before in (None, "logfire"):
        monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)
        if before:
            monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", before)
        assert isinstance(validated(values), Frontmatter)
        assert os.environ.get("PYDANTIC_DISABLE_PLUGINS") == before


@pytest.mark.parametrize("head", ["base_model: smollm2-135m\n", 'base_model: "smollm2-135m\n'])
def test_compat_of_a_document_with_mistakes_tells_the_mistakes(workshop: Workshop, head: str) -> None:
    write(workshop, f"---\ndlm_id: {ID}\n{head}---\ntext\n")
    plain, compat = (workshop.dlm("check", *more, code=1).err for more in ((), ("--compat",)))
    assert plain == compat and "book.dlm:" in compat


def test_compat_tells_every_auto_that_is_none_there(workshop: Workshop) -> None:
    keys = "training: {lr_scheduler: auto, preference: {hyperparams: {num_epochs: auto}}}\n"
    write(workshop, HEAD.replace("base_model", f"{keys}base_model") + "text\n")
    out = workshop.dlm("check", "--compat").out
    assert "book.dlm:4:26: elsewhere: training.lr_scheduler: auto: it does not know auto here" in out
    assert "training.preference.hyperparams.num_epochs: auto: it does not know auto here" in out


def test_a_name_that_is_no_text_can_be_written_as_json(workshop: Workshop) -> None:
    bad = os.fsencode(workshop.folder) + b"/sub\xff.dlm"
    Path(os.fsdecode(bad)).write_text(HEAD + "text\n")
    (document,) = json.loads(workshop.dlm("check", "--format", "json", code=None).out)["documents"]
    assert document["path"] == "sub\udcff.dlm"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("training:\n", "book.dlm:4:1: elsewhere: nothing is written under training: it refuses a block without keys"),
        ("training:\n  # seed: 1\n", "book.dlm:4:1: elsewhere: nothing is written under training:"),
        ("training: {preference: ~}\n", "book.dlm:4:12: elsewhere: nothing is written under training.preference:"),
        ("training: {preference: {hyperparams: null}}\n", "nothing is written under training.preference.hyperparams:"),
        ("export:\n", "book.dlm:4:1: elsewhere: nothing is written under export:"),
        (
            "training: {preference: {enabled: null}}\n",
            "book.dlm:4:34: elsewhere: training.preference.enabled: null: it wants true or false",
        ),
        ("training: {seed: 0o10}\n", "book.dlm:4:18: elsewhere: training.seed: 0o10: it reads YAML 1.1"),
        ("training: {seed: 010}\n", "book.dlm:4:18: elsewhere: training.seed: 010: it reads YAML 1.1"),
        ("system_prompt: =\n", "book.dlm:4:16: elsewhere: system_prompt: =: it reads YAML 1.1"),
        ("system_prompt: -0x1f\n", "book.dlm:4:16: elsewhere: system_prompt: -0x1f: it reads YAML 1.1"),
        ("system_prompt: 0x_f\n", "book.dlm:4:16: elsewhere: system_prompt: 0x_f: it reads YAML 1.1"),
        ("system_prompt: 0.5_5\n", "book.dlm:4:16: elsewhere: system_prompt: 0.5_5: it reads YAML 1.1"),
        ("system_prompt: 2020-01-01\n", "book.dlm:4:16: elsewhere: system_prompt: 2020-01-01: it reads YAML 1.1"),
        ("system_prompt: 2020-1-1 1:00:00\n", "book.dlm:4:16: elsewhere: system_prompt: 2020-1-1 1:00:00: it reads"),
        ("system_prompt: .5_\n", "book.dlm:4:16: elsewhere: system_prompt: .5_: it reads YAML 1.1"),
        ("training: {seed: 3} # a \x85 b\n", "book.dlm:4:25: elsewhere: the character U+0085: it ends a line with it"),
        (
            "training: {sources: [{path: ., include: ['a\u2028b', '*']}]}\n",
            "book.dlm:4:44: elsewhere: the character U+2028: it ends a line with it",
        ),
        ("# seed\u2029training: {seed: 3}\n", "book.dlm:4:7: elsewhere: the character U+2029: it ends a line with it"),
        ("system_prompt: -1:30\n", "book.dlm:4:16: elsewhere: system_prompt: -1:30: it reads YAML 1.1"),
    ],
)
def test_compat_tells_what_yaml_and_the_keys_mean_there(workshop: Workshop, keys: str, told: str) -> None:
    write(workshop, HEAD.replace("base_model", f"{keys}base_model") + "text\n")
    assert told in workshop.dlm("check", "--compat").out


@pytest.mark.parametrize(
    "word", ["y", "N", "2020-1-1", "1.5", "0x1f", "-12", "true", "no way", "12:30 or later", "08", "1e3", "+.5"]
)
def test_compat_passes_over_what_both_read_alike(workshop: Workshop, word: str) -> None:
    write(workshop, HEAD.replace("---\n", f"---\nsystem_prompt: {word}\n", 1) + "text\n")
    assert "system_prompt" not in workshop.dlm("check", "--compat", code=None).out


def test_a_character_that_ends_no_line_is_none_in_the_keys(workshop: Workshop) -> None:
    for end in ("\x85", "\u2028", "\u2029"):
        keys = f"# a comment{end}training: {{seed: 3}}\nsystem_prompt: 'a{end} b'\n"
        write(workshop, HEAD.replace("base_model", f"{keys}base_model") + "text\n")
        err = workshop.dlm("check", code=1).err
        assert err.count("book.dlm:") == 1
        assert f"book.dlm:5:16: system_prompt holds the character U+{ord(end):04X}" in err
        write(workshop, HEAD.replace("base_model", f"export: |{end}  x\nbase_model") + "text\n")
        err = workshop.dlm("check", code=1).err
        assert "book.dlm:4:10: this is not YAML: expected chomping or indentation indicators, but found 'U" in err


@pytest.mark.parametrize("word", ["08", "1e3", "+.5", "-.5", "1.5e3", "-019"])
def test_what_is_text_there_is_text_here(workshop: Workshop, word: str) -> None:
    (workshop.folder / word).mkdir()
    (workshop.folder / word / word).write_text("text")
    training = f"training: {{learning_rate: 1e-3, sources: [{{path: {word}, include: [{word}]}}]}}\n"
    write(workshop, HEAD.replace("---\n", f"---\nsystem_prompt: {word}\n{training}", 1) + "text\n")
    (document,) = json.loads(workshop.dlm("check", "--compat", "--format", "json").out)["documents"]
    assert [list(source["files"]) for source in document["sources"]] == [[word]]
    assert not [note for note in document["elsewhere"] if note["line"] < 4 and word in note["what"]]


def test_compat_passes_over_what_may_be_null_there(workshop: Workshop) -> None:
    keys = "training: {sources: null, adapters: ~, preference: {enabled: false}}\nsystem_prompt:\n"
    write(workshop, HEAD.replace("base_model", f"{keys}base_model") + "text\n")
    out = workshop.dlm("check", "--compat").out
    assert out.count("elsewhere") == 1 and "nothing is written for lora_r" in out


def test_what_only_looks_like_a_fence_is_never_text(workshop: Workshop) -> None:
    lines = ["::1nstruction::", "\u1361\u1361prose\u1361\u1361", "::\u0440r\u043ese::", "x\u2028::prose::"]
    document = workshop.document("book", body="\n".join(["::1", "std::vector::iterator", *lines]) + "\n")
    found = json.loads(workshop.dlm("check", "--format", "json", code=1).out)
    first = document.read_text().split("\n").index(lines[0]) + 1
    places = {(error["line"], error["col"]) for error in found["documents"][0]["errors"] if error["line"] >= first}
    assert sorted(places) == [(first, 1), (first + 1, 1), (first + 2, 1), (first + 3, 2)]
