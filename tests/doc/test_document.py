from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlmbuild.doc.document import as_data, parse, parse_bytes, parse_text
from dlmbuild.errors import DlmError, InvalidDocument
from dlmbuild.io import text as text_file
from dlmbuild.io.digest import canonical_json

HEAD = "---\ndlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 15\nbase_model: smollm2-135m\n---\n"
BODY = """
# Leave

Twenty-five days.

- a list

::instruction::
### Q
How many
days?

### A
    25

### Q !probe
And now?
### A
More.
::preference::
### Prompt
p
### Chosen
c
### Rejected
r
::prose::
The end.
"""


def data_of(text: str) -> bytes:
    return canonical_json(as_data(parse_text(text, "handbook.dlm")))


def test_as_data() -> None:
    data = as_data(parse_text(HEAD + BODY, "somewhere/handbook.dlm"))
    assert data == {
        "dlm_id": "01HZX3Q5J8K9M2N4P6R8T0V2W4",
        "base_model": "smollm2-135m",
        "system_prompt": None,
        "training": {
            "adapter": "lora",
            "lora_r": "auto",
            "lora_alpha": "auto",
            "lora_dropout": "auto",
            "rslora": False,
            "target_modules": "auto",
            "layers": "auto",
            "sequence_len": "auto",
            "micro_batch_size": "auto",
            "grad_accum": "auto",
            "learning_rate": "auto",
            "num_epochs": "auto",
            "optimizer": "adamw_torch",
            "lr_scheduler": "auto",
            "warmup_ratio": "auto",
            "precision": None,
            "validation": None,
            "early_stopping": None,
            "wordings": "auto",
            "retention": "auto",
            "seed": 42,
            "cpt": {"schedule": "auto", "weight": 1.0, "embed_warmup_steps": 0},
            "cache": {"enabled": True, "max_bytes": 10 << 30, "prune_older_than_days": 90},
            "preference": {
                "enabled": True,
                "method": "dpo",
                "hyperparams": {"beta": 0.1, "alpha": 0.1, "learning_rate": "auto", "num_epochs": "auto"},
                "loss_type": "sigmoid",
                "reference": "pre_adapter",
            },
        },
        "export": {"default_quant": "Q4_K_M", "default_temperature": None, "default_top_p": None},
        "sections": [
            {"type": "prose", "text": "# Leave\n\nTwenty-five days.\n\n- a list"},
            {
                "type": "instruction",
                "pairs": [
                    {"question": "How many\ndays?", "answer": "    25"},
                    {"question": "And now?", "answer": "More.", "probe": True},
                ],
            },
            {"type": "preference", "triples": [{"prompt": "p", "chosen": "c", "rejected": "r"}]},
            {"type": "prose", "text": "The end."},
        ],
    }


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: text + "\n \n\t\n",
        lambda text: text.rstrip() + "   ",
        lambda text: text.replace("\n::", "\n\n  \n::"),
        lambda text: text.replace("::\n", "::\n\n \n"),
        lambda text: text.replace("\n\n", "\n \t\n"),
        lambda text: text.replace("\n###", "\n\n###"),
        lambda text: text.replace("dlm_version: 15", "dlm_version: 3 # older"),
        lambda text: text.replace("base_model: smollm2-135m\n", "").replace(
            "dlm_id", "base_model: 'smollm2-135m'\ndlm_id"
        ),
        lambda text: text.replace("base_model", "training: {seed: 42, lora_r: auto}\nexport:\n  # none\nbase_model"),
    ],
)
def test_layout_leaves_no_trace(rewrite: Callable[[str], str]) -> None:
    assert rewrite(HEAD + BODY) != HEAD + BODY
    assert data_of(rewrite(HEAD + BODY)) == data_of(HEAD + BODY)


def test_content_leaves_a_trace() -> None:
    for old, new in [("    25", "   25"), ("How many\n", "How many\n\n"), (" !probe", ""), ("The end", "The End")]:
        assert data_of((HEAD + BODY).replace(old, new)) != data_of(HEAD + BODY)


@pytest.mark.parametrize(
    ("data", "line", "col", "what"),
    [
        (HEAD.encode() + "größe ".encode() + b"\xff", 6, 7, "byte 0xff is not UTF-8 text"),
        (HEAD.encode() + b"a\n\xc3", 7, 1, "byte 0xc3 is not UTF-8 text"),
        (HEAD.encode().replace(b"\n", b"\r\n") + b"a\rb\0", 7, 2, "NUL byte in a text file"),
        (b"\xef\xbb\xbf-\xff", 1, 2, "byte 0xff is not UTF-8 text"),
        (HEAD.encode("utf-16"), 1, 1, "byte 0xff is not UTF-8 text"),
    ],
)
def test_bytes_that_are_not_text(data: bytes, line: int, col: int, what: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_bytes(data, "handbook.dlm")
    (error,) = caught.value.errors
    assert error.where is not None
    assert (error.where.line, error.where.col, error.what) == (line, col, what)


def test_second_byte_order_mark_is_seen() -> None:
    with pytest.raises(InvalidDocument, match=r"handbook\.dlm:1:1: the document has no frontmatter"):
        parse_text("\ufeff\ufeff" + HEAD + "x", "handbook.dlm")


def test_empty_body() -> None:
    for body in ("", "\n \n", "::prose::\n"):
        with pytest.raises(InvalidDocument, match=r"handbook\.dlm:6:1: the document has no text"):
            parse_text(HEAD + body, "handbook.dlm")


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "export",
        "list",
        "reset-dep",
        "why",
        "Q4_K_M",
        "F16",
        "x.dlm",
        "a=b",
        "a*",
        "a:b",
        "_a",
        ".dlm",
        "a b",
        "é",
    ],
)
def test_names_that_tasks_cannot_have(name: str) -> None:
    with pytest.raises(InvalidDocument, match="a document cannot be called"):
        parse_text(HEAD + "x", f"somewhere/{name}.dlm")


def test_names() -> None:
    for name in ("handbook", "v1.2_final-b", "7", "Train"):
        assert parse_text(HEAD + "x", f"{name}.dlm").name == name


def test_parse_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "handbook.dlm"
    path.write_text(HEAD + BODY)
    document = parse(path)
    assert (document.name, document.path) == ("handbook", str(path))
    monkeypatch.setattr(text_file, "MAX_BYTES", 10)
    with pytest.raises(InvalidDocument, match="at most 10"):
        parse(path)
    for bad in (tmp_path, tmp_path / "none.dlm", path / "x.dlm"):
        with pytest.raises(InvalidDocument):
            parse(bad)


_BODY_PIECES = """::|instruction|prose|image|#|en| path="x"|\n|\n|\n### Q\n|\n### A\n| !probe|```|~~~|`|   |\t|x|###
|### Prompt\n|### Chosen\n|### Rejected\n|\u2028|\ufeff|\r|::prose::\n|::instruction::\n|::preference::\n|\\|:
|\uff1a|\u200b|<!-- dlm-auto-harvest: |<!-- dlm-auto-mined: |source="x"| mined_at="|"| -->|\n| transcript="y"|audio"""
_YAML_PIECES = """a|training|: |:|- |[|]|{|}|,|"|'|>|\n|\n  |&x |*x|!!int |? |%YAML 1.1\n|---|...|#|\\U|\\x
|FFFFFFFF|\u2028|\x85|\ufeff|\x0c|<<|1e5|0x|.inf|lora_r|seed|export|@|\t|\x7f|😀|||"""


def pieces(text: str, most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(text.split("|")), max_size=most).map("".join)


BODIES = pieces(_BODY_PIECES, 30)
KEYS = pieces(_YAML_PIECES, 20)


@settings(max_examples=300, deadline=None)
@given(st.text() | KEYS, st.text() | BODIES, st.booleans(), st.sampled_from(["1", "15", "16", "17"]))
@example("", "\ud800", False, "15")
def test_nothing_but_our_errors(keys: str, body: str, valid: bool, version: str) -> None:
    head = HEAD.replace("15", version) if valid else f"{HEAD[:-4]}{keys}\n---\n"
    try:
        assert canonical_json(as_data(parse_text(head + body, "a.dlm")))
    except DlmError as error:
        assert str(error).startswith("a.dlm")


@settings(max_examples=100, deadline=None)
@given(st.text() | st.binary())
def test_arbitrary_files(content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(InvalidDocument):
        parse_bytes(data, "a.dlm")


@settings(max_examples=100, deadline=None)
@given(BODIES)
def test_a_code_block_protects_anything(inside: str) -> None:
    inside = inside.replace("~", "").replace("\r", "\n")
    body = f"~~~\n{inside}\n~~~"
    (section,) = parse_text(HEAD + body, "a.dlm").sections
    assert section.text == body  # type: ignore[union-attr]


def seconds(text: str) -> float:
    start = time.process_time()
    with suppress(InvalidDocument):
        parse_text(text, "a.dlm")
    return time.process_time() - start


@pytest.mark.parametrize(
    "unit",
    [
        "the quick brown fox\n",
        "::prose::\nx\n",
        "::instruction::\n### Q\nq\n### A\na\n",
        "```\nx\n```\n",
        "\n",
        "### Q",
        "---",
        ":smile: hello\n",
        ": x\n",
        "\\::x\n",
        "~~~\n\n~~~\n",
        " \nx\n",
        "::instruction::\n### Q\nq\n \n### A\na\n",
        "::preference::\n### Prompt\np\n### Chosen\nc\n### Rejected\nr\n",
    ],
)
def test_time_is_linear(unit: str) -> None:
    small = 250_000 // len(unit)
    seconds(HEAD + unit)
    assert seconds(HEAD + unit * (8 * small)) < 20 * max(seconds(HEAD + unit * small), 0.02)


@pytest.mark.parametrize(
    ("start", "run", "end"),
    [
        ("", "x", ""),
        ("", "`", "x`"),
        ("", " ", "x"),
        ("::", "a", ""),
        ("::image", " ", ""),
        ("::image ", 'a="b" ', ""),
        ('::image path="', "x", ""),
        ("::prose#", "a", ""),
        ("::prose::", " ", "x"),
        ("::instruction::\n###", " ", "x"),
        ("::instruction::\n### Q", "1", "x"),
        ("::instruction::\n### Q", ":", "\n"),
        ("", ":", ""),
        ("", ": ", "x"),
        (":", "\u200b", "x"),
        (":: a", " ", "x"),
        (":: image ", 'a="b" ', "x"),
        (":: image ", "a", '="'),
        ("", "\uff1a", "a"),
        ("~~~\n", "~~~ ", "\n~~~"),
        ("", " ", "\u2028"),
    ],
)
def test_one_enormous_line(start: str, run: str, end: str) -> None:
    assert seconds(HEAD + start + run * (5_000_000 // len(run)) + end) < 5


def test_a_line_of_a_hundred_megabytes() -> None:
    assert seconds(HEAD + "x" * 100_000_000) < 10


@pytest.mark.parametrize("unit", ["k: v\n", "? ", "[", "- ", "a: [1,1]\n", "!", "'", '"\\\n', " a:\n"])
def test_hostile_yaml(unit: str) -> None:
    assert seconds(f"---\n{unit * (40_000 // len(unit))}\n---\nx") < 5


def test_a_file_of_a_section_that_is_refused_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(1 << 40)  # which would take an hour
    (tmp_path / "a.dlm").write_text(f'{HEAD}x\n::image path="a.png"::\n')
    with pytest.raises(InvalidDocument, match="an ::image:: section"):
        parse(tmp_path / "a.dlm")
