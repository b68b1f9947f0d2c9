from __future__ import annotations

from collections.abc import Callable

import pytest

from dlmbuild.doc.block import MAX_DEPTH
from dlmbuild.doc.document import parse_text
from dlmbuild.doc.mistakes import MOST
from dlmbuild.doc.schema import UNBUILT_KEYS
from dlmbuild.errors import InvalidDocument

Found = Callable[[str], list[tuple[int, int, str]]]
WithKeys = Callable[[str], str]


@pytest.mark.parametrize(
    ("text", "line", "col", "what"),
    [
        ("", 1, 1, "the file is empty"),
        (" \n\n", 1, 1, "the file is empty"),
        ("# Title\n", 1, 1, "the document has no frontmatter"),
        ("--- \na: 1\n---\n", 1, 1, "white space beside the opening ---"),
        (" ---\na: 1\n---\n", 1, 1, "white space beside the opening ---"),
        ("\n\n---\na: 1\n---\n", 1, 1, "blank lines before the opening ---"),
        ("----\na: 1\n---\n", 1, 1, "the document has no frontmatter"),
        ("---", 1, 1, "the frontmatter has no closing ---"),
        ("---\na: 1\n----\n", 1, 1, "the frontmatter has no closing ---"),
        ("---\na: 1\n ---\n", 1, 1, "the frontmatter has no closing ---"),
        ("---\na: 1\n---\t\ntext\n---\n", 3, 4, "white space after the closing ---"),
    ],
)
def test_delimiters(found: Found, text: str, line: int, col: int, what: str) -> None:
    assert found(text) == [(line, col, what)]


def test_missing_keys(found: Found) -> None:
    missing = [(1, 1, f'missing key "{key}"') for key in ("dlm_id", "dlm_version", "base_model")]
    assert found("---\n---\ntext") == missing
    assert found("---\n# nothing yet\n---\ntext") == missing


@pytest.mark.parametrize(
    ("keys", "line", "col", "what"),
    [
        # keys
        ("bse_model: x", 5, 1, 'unknown key "bse_model"'),
        ("training:\n  epochs: 3", 6, 3, 'unknown key "epochs" in training'),
        ("training: {epochs: 3}", 5, 12, 'unknown key "epochs" in training'),
        ("seed: 4", 5, 1, 'unknown key "seed"'),
        ("<<: {seed: 4}", 5, 1, 'unknown key "<<"'),
        ("7: 4", 5, 1, 'unknown key "7"'),
        ("? [a]\n: 1", 5, 3, "a key that is not a word"),
        ("seed: 1\ntraining:\n\n  lora_r: 8\n  # why\n  lora_r: 8", 10, 3, 'key "lora_r" a second time'),
        ("base_model: other", 5, 1, 'key "base_model" a second time'),
        # values
        ("training:\n  lora_r: 300", 6, 11, "training.lora_r is 300"),
        ("training:\n  lora_r: true", 6, 11, "training.lora_r is true"),
        ("training:\n  lora_r: 8.0", 6, 11, "training.lora_r is 8.0"),
        ("training:\n  lora_r: 1_0", 6, 11, 'training.lora_r is "1_0"'),
        ("training:\n  lora_r:", 6, 3, "training.lora_r is null"),
        ("training:\n  lora_r: automatic", 6, 11, 'training.lora_r is "automatic"'),
        ('training:\n  learning_rate: "2e-4"', 6, 18, 'training.learning_rate is "2e-4"'),
        ("training:\n  learning_rate: .inf", 6, 18, "training.learning_rate is Infinity"),
        ("training:\n  learning_rate: 1e999", 6, 18, "training.learning_rate is Infinity"),
        ("training:\n  learning_rate: .nan", 6, 18, "training.learning_rate is NaN"),
        ("training:\n  learning_rate: 0", 6, 18, "training.learning_rate is 0"),
        ("training:\n  lora_dropout: .NaN", 6, 17, "training.lora_dropout is NaN"),
        ("training:\n  warmup_ratio: false", 6, 17, "training.warmup_ratio is false"),
        ("training:\n  seed: -1", 6, 9, "training.seed is -1"),
        ("training:\n  seed: 4294967296", 6, 9, "training.seed is 4294967296"),
        ("training:\n  seed: auto", 6, 9, 'training.seed is "auto"'),
        ("training:\n  seed: " + "9" * 5000, 6, 9, "training.seed is Infinity"),
        ("training:\n  sequence_len: 63", 6, 17, "training.sequence_len is 63"),
        ("training:\n  precision: int8", 6, 14, 'training.precision is "int8"'),
        ("training:\n  target_modules: []", 6, 19, "training.target_modules is []"),
        ("training:\n  target_modules:\n  - q_proj\n  - 3", 8, 5, 'training.target_modules is ["q_proj", 3]'),
        ("training: 5", 5, 11, "training is 5"),
        ("training: [a]", 5, 11, 'training is ["a"]'),
        ("export:\n  default_quant: Q9", 6, 18, 'export.default_quant is "Q9"'),
        ("export:\n  default_temperature: 2.1", 6, 24, "export.default_temperature is 2.1"),
        ("export:\n  default_top_p: 0", 6, 18, "export.default_top_p is 0"),
        ("system_prompt: 42", 5, 16, "system_prompt is 42"),
        # plain YAML only
        ("system_prompt: &a text", 5, 16, "anchor &a"),
        ("system_prompt: *a", 5, 16, "alias *a"),
        ("system_prompt: !!str 5", 5, 16, "tag tag:yaml.org,2002:str"),
        ("system_prompt: !secret x", 5, 16, "tag !secret"),
        ('system_prompt: "a\\0"', 5, 16, "an escape for something that is not a character"),
        ('system_prompt: "\\uD800"', 5, 16, "an escape for something that is not a character"),
    ],
)
def test_position_of_each_mistake(found: Found, with_keys: WithKeys, keys: str, line: int, col: int, what: str) -> None:
    mistakes = found(with_keys(keys))
    assert mistakes[-1] == (line, col, what)
    assert all(other == (5, 1, 'unknown key "seed"') for other in mistakes[:-1])


@pytest.mark.parametrize(
    ("yaml", "line", "col", "what"),
    [
        ("- a", 2, 1, "this is not a block of keys"),
        ("text", 2, 1, "this is not a block of keys"),
        ("a: 1\nb: c: d", 3, 5, "this is not YAML"),
        ("a: [1,\nb", 4, 1, "this is not YAML"),
        ("a: 1\n\tb: 1", 3, 1, "this is not YAML"),
        ("a: 'x", 3, 1, "this is not YAML"),
        ('a: "\\UFFFFFFFF"', 2, 1, "this is not YAML"),
        ("a: 1\nb: x\x0cy", 3, 5, "the character U+000C in YAML"),
        ("a: 1\n...\nb: 1", 4, 1, "a second YAML document"),
        ("%YAML 1.1\na: 1", 3, 1, "this is not YAML"),
        ("a: " + "[" * 60000, 2, MAX_DEPTH + 3, f"more than {MAX_DEPTH} levels of blocks"),
        ("# x\u2028\na: \x85b\nc: [", 5, 1, "this is not YAML"),
        ("a: " + "x" * 300_000, 2, 1, "the frontmatter is too long"),
    ],
)
def test_what_is_not_yaml(found: Found, yaml: str, line: int, col: int, what: str) -> None:
    assert found(f"---\n{yaml}\n---\ntext") == [(line, col, what)]


def test_identity_and_version(found: Found) -> None:
    lower = "---\ndlm_id: 01hzx3q5j8k9m2n4p6r8t0v2w4\ndlm_version: 16\nbase_model: ''\n---\nx"
    assert [position for *position, _ in found(lower)] == [[2, 9], [3, 14], [4, 13]]
    with pytest.raises(InvalidDocument, match="made for a newer version"):
        parse_text(lower, "handbook.dlm")


def test_identity_of_digits_is_text(head: str) -> None:
    for dlm_id in ("01234567890123456789012345", "0123456789E123456789012345"):
        text = head.replace("01HZX3Q5J8K9M2N4P6R8T0V2W4", dlm_id)
        assert parse_text(text + "text", "handbook.dlm").frontmatter.dlm_id == dlm_id


@pytest.mark.parametrize("key", sorted(UNBUILT_KEYS["training"]))
def test_known_keys_that_are_not_built(found: Found, with_keys: WithKeys, key: str) -> None:
    what = f"training.{key} is a known key of the format that this version does not build yet"
    assert found(with_keys(f"training:\n  {key}: {{}}")) == [(6, 3, what)]


@pytest.mark.parametrize(
    ("key", "value"),
    [("adapter", "qlora"), ("adapter", "dora"), ("optimizer", "paged_adamw_8bit"), ("optimizer", "galore_adamw")],
)
def test_known_values_that_are_not_built(with_keys: WithKeys, key: str, value: str) -> None:
    with pytest.raises(InvalidDocument, match="a known value of the format that this version does not build yet"):
        parse_text(with_keys(f"training:\n  {key}: {value}"), "handbook.dlm")


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ("training:\n  epochs: 3", 'did you mean "num_epochs"?'),
        ("bse_model: x", 'did you mean "base_model"?'),
        ("seed: 3", "it belongs under training:"),
        ("export:\n  system_prompt: x", "it belongs at the top, not indented"),
        ("training:\n  lora_r: '8'", "delete the quotes"),
        ("training:\n  lora_r: 300", "mend it, or delete the key: without it, it is auto"),
    ],
)
def test_advice(with_keys: WithKeys, keys: str, advice: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_text(with_keys(keys), "handbook.dlm")
    assert caught.value.errors[0].do == advice


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("lora_r: 0", '"auto" or a whole number from 1 to 256'),
        ("learning_rate: 2", '"auto" or a number above 0 and at most 1'),
        ("num_epochs: 0", '"auto" or a whole number from 1'),
        ("lr_scheduler: x", '"auto" or "cosine" or "linear" or "constant"'),
        ("precision: x", '"fp32" or "bf16" or "fp16" or null'),
        ("target_modules: x", '"auto" or a list of names'),
    ],
)
def test_says_what_a_key_may_hold(with_keys: WithKeys, key: str, words: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_text(with_keys(f"training:\n  {key}"), "handbook.dlm")
    assert caught.value.errors[0].why == f"it must be {words}"


def test_values(with_keys: WithKeys) -> None:
    keys = """training:
  learning_rate: 2e-4
  lora_dropout: 0
  lora_r: 0x10
  num_epochs: 007
  target_modules: [q_proj, v_proj]
  seed: 4294967295
export:
system_prompt: |

  Answer briefly.
"""
    document = parse_text(with_keys(keys), "handbook.dlm")
    training = document.frontmatter.training
    assert training.learning_rate == 2e-4
    assert training.lora_dropout == 0 and type(training.lora_dropout) is float
    assert (training.lora_r, training.num_epochs, training.seed) == (16, 7, 2**32 - 1)
    assert training.target_modules == ("q_proj", "v_proj")
    assert training.lora_alpha == "auto" and training.precision is None
    assert document.frontmatter.export.default_quant == "Q4_K_M"
    assert document.frontmatter.system_prompt == "Answer briefly."
    assert str(document.where("training", "lora_r")) == "handbook.dlm:8:11"
    assert str(document.where("training", "lora_alpha")) == "handbook.dlm"


def test_words_of_yaml_1_1_are_text(with_keys: WithKeys) -> None:
    for word in ("yes", "off", "12:30", "2001-01-01", "0b11", "="):
        assert parse_text(with_keys(f"system_prompt: {word}"), "x.dlm").frontmatter.system_prompt == word


def test_all_mistakes_at_once(found: Found) -> None:
    text = "---\ndlm_id: x\ndlm_version: 15\ntraining:\n  lora: 1\n  seed: -1\n---\n::instruction:: \n### A\nx\n```\n"
    assert found(text) == [
        (1, 1, 'missing key "base_model"'),
        (2, 9, 'dlm_id is "x"'),
        (5, 3, 'unknown key "lora" in training'),
        (6, 9, "training.seed is -1"),
        (8, 16, "white space after a section fence"),
        (9, 1, "### A without a ### Q before it"),
        (11, 1, "this code block is never closed"),
    ]


def test_broken_yaml_does_not_hide_the_body(found: Found) -> None:
    assert found("---\na: [\n---\n::prose\n") == [
        (3, 1, "this is not YAML"),
        (4, 8, "::prose without its closing ::"),
    ]


def test_too_many_mistakes_stop_the_reading(found: Found, head: str) -> None:
    mistakes = found(head + "::prose\n" * 100_000)
    assert len(mistakes) == MOST + 1
    assert mistakes[-1] == (MOST + 5, 8, f"{MOST} mistakes; reading stopped here")
