from __future__ import annotations

from collections.abc import Callable

import pytest

from dlmbuild.doc.block import MAX_DEPTH
from dlmbuild.doc.document import as_data, parse_text
from dlmbuild.doc.mistakes import MOST
from dlmbuild.doc.schema import UNBUILT_BLOCKS
from dlmbuild.errors import InvalidDocument, Where

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
        ("training:\n  learning_rate: .inf", 6, 18, "training.learning_rate is .inf"),
        ("training:\n  learning_rate: 1e999", 6, 18, "training.learning_rate is 1e999"),
        ("training:\n  learning_rate: .nan", 6, 18, "training.learning_rate is NaN"),
        ("training:\n  learning_rate: 0", 6, 18, "training.learning_rate is 0"),
        ("training:\n  lora_dropout: .NaN", 6, 17, "training.lora_dropout is NaN"),
        ("training:\n  warmup_ratio: false", 6, 17, "training.warmup_ratio is false"),
        ("training:\n  seed: -1", 6, 9, "training.seed is -1"),
        ("training:\n  seed: 4294967296", 6, 9, "training.seed is 4294967296"),
        ("training:\n  seed: auto", 6, 9, 'training.seed is "auto"'),
        ("training:\n  seed: " + "9" * 5000, 6, 9, f"training.seed is {'9' * 57}…"),
        ("training:\n  lora_dropout: -.inf", 6, 17, "training.lora_dropout is -.inf"),
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
        ("training:\n  num_epochs: 1001", 6, 15, "training.num_epochs is 1001"),
        ("training:\n  micro_batch_size: 1025", 6, 21, "training.micro_batch_size is 1025"),
        ("training:\n  grad_accum: 1025", 6, 15, "training.grad_accum is 1025"),
        ("training:\n  lora_alpha: 4097", 6, 15, "training.lora_alpha is 4097"),
        # what a Modelfile cannot say
        ('system_prompt: |\n  Say """\n  often.', 5, 16, 'system_prompt holds a line that ends in """'),
        ("system_prompt: ten\u00a0boats", 5, 16, "system_prompt holds the character U+00A0 NO-BREAK SPACE"),
        ('system_prompt: "a\\u200db"', 5, 16, "system_prompt holds the character U+200D ZERO WIDTH JOINER"),
        ('system_prompt: "a\\x07b"', 5, 16, "system_prompt holds the character U+0007"),
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
    lower = "---\ndlm_id: 01hzx3q5j8k9m2n4p6r8t0v2w4\ndlm_version: 17\nbase_model: ''\n---\nx"
    assert [position for *position, _ in found(lower)] == [[2, 9], [3, 14], [4, 13]]
    with pytest.raises(InvalidDocument, match="made for a newer version"):
        parse_text(lower, "handbook.dlm")


def test_identity_of_digits_is_text(head: str) -> None:
    for dlm_id in ("01234567890123456789012345", "0123456789E123456789012345"):
        text = head.replace("01HZX3Q5J8K9M2N4P6R8T0V2W4", dlm_id)
        assert parse_text(text + "text", "handbook.dlm").frontmatter.dlm_id == dlm_id


UNBUILT = [
    ("audio: {auto_resample: true}", 6, 26, "audio.auto_resample is true"),
]


@pytest.mark.parametrize(("keys", "line", "col", "what"), UNBUILT)
def test_what_is_not_built_is_refused(
    found: Found, with_keys: WithKeys, keys: str, line: int, col: int, what: str
) -> None:
    assert found(with_keys(f"training:\n  {keys}")) == [(line, col, f"training.{what}")]


def test_a_key_that_no_adapter_can_do_is_refused_with_the_reason(with_keys: WithKeys) -> None:
    with pytest.raises(InvalidDocument, match=r"6:29: .*cpt.embed_warmup_steps is 3: .*embeddings are none") as caught:
        parse_text(with_keys("training:\n  cpt: {embed_warmup_steps: 3}"), "handbook.dlm")
    assert "delete it" in str(caught.value)


def test_every_key_that_is_not_built_is_in_the_test() -> None:
    assert {f"training.{keys.partition(':')[0]}" for keys, *_ in UNBUILT} == set(UNBUILT_BLOCKS)


PUBLIC_DEFAULTS = """training:
  preference:
    enabled: false
    method: dpo
    hyperparams: {beta: 0.1, alpha: 0.1, learning_rate: 5e-6, num_epochs: 1}
    loss_type: sigmoid
    reference: pre_adapter
  cpt: {schedule: auto, embed_warmup_steps: 0}
  gate: {enabled: false, hidden_proj_dim: 64, steps: 200, lr: 3e-4, cold_start_floor: 4, entropy_lambda: 0.01}
  cache: {enabled: true, max_bytes: 10737418240, prune_older_than_days: 90}
  audio: {auto_resample: false}
  adapters: null
  sources: null
  sources_policy: permissive
"""


def test_defaults_of_what_is_not_built_may_be_written(with_keys: WithKeys) -> None:
    plain = as_data(parse_text(with_keys("# nothing"), "handbook.dlm"))
    assert as_data(parse_text(with_keys(PUBLIC_DEFAULTS), "handbook.dlm")) == plain
    empty = "training:\n  preference:\n  cpt: {}\n  gate:\n  cache:\n  audio: {}\n"
    assert as_data(parse_text(with_keys(empty), "handbook.dlm")) == plain


@pytest.mark.parametrize(
    ("key", "value"),
    [("optimizer", "galore_adamw"), ("optimizer", "galore_adamw_8bit")],
)
def test_known_values_that_have_no_use_here(with_keys: WithKeys, key: str, value: str) -> None:
    with pytest.raises(InvalidDocument, match=f'6:14: .*{key} is "{value}": GaLore projects .*\n.*adamw_bnb_8bit'):
        parse_text(with_keys(f"training:\n  {key}: {value}"), "handbook.dlm")


@pytest.mark.parametrize(
    ("keys", "line", "col", "what", "why"),
    [
        ("preference: {enabled: 1}", 6, 25, "preference.enabled is 1", "true or false or null"),
        ("preference: {methd: dpo}", 6, 16, None, 'unknown key "methd" in training.preference'),
        ("preference: {beta: 0.2}", 6, 16, None, 'unknown key "beta" in training.preference'),
        ("preference: {hyperparams: {beta: 2}}", 6, 36, "preference.hyperparams.beta is 2", "a number from 0 to 1"),
        ("preference: 5", 6, 15, "preference is 5", "a block of keys"),
        ("cpt: {schedule: never}", 6, 19, 'cpt.schedule is "never"', '"auto" or "dapt" or "sft"'),
        ("gate: {steps: 0}", 6, 17, "gate.steps is 0", "a whole number from 1 to 10000"),
        ("gate: {lr: 0}", 6, 14, "gate.lr is 0", "a number above 0 and at most 1"),
        ("cache: {max_bytes: 0}", 6, 22, "cache.max_bytes is 0", "a whole number from 1"),
        ("audio: {auto_resample: no}", 6, 26, 'audio.auto_resample is "no"', "true or false"),
        (
            "adapters: {}",
            6,
            13,
            "adapters is {}",
            "blocks of keys under names of up to 32 small letters, digits and _ or null",
        ),
        ("adapters: {En: {}}", 6, 14, None, '"En" is no name'),
        ("adapters: {en: {lora_r: 0}}", 6, 27, "adapters.en.lora_r is 0", '"auto" or a whole number from 1 to 256'),
        ("adapters: {en: {seed: 1}}", 6, 19, None, 'unknown key "seed" in training.adapters.en'),
        ("sources: [{include: [x]}]", 6, 13, None, 'missing key "path"'),
        (
            "sources:\n  - path: a\n    max_files: 0",
            8,
            16,
            "sources[0].max_files is 0",
            "a whole number from 1 or null",
        ),
        ("sources:\n  - path: a\n    exclude: [b, 3]", 8, 18, 'sources[0].exclude is ["b", 3]', "a list of names"),
        ("sources:\n  - path: a\n    ignore: b", 8, 5, None, 'unknown key "ignore" in training.sources[0]'),
        ("sources: src", 6, 12, 'sources is "src"', "a list of blocks of keys or null"),
        ("sources_policy: lax", 6, 19, 'sources_policy is "lax"', '"permissive" or "strict"'),
    ],
)
def test_all_keys_are_checked(
    with_keys: WithKeys, keys: str, line: int, col: int, what: str | None, why: str | None
) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_text(with_keys(f"training:\n  {keys}"), "handbook.dlm")
    (error,) = caught.value.errors
    assert error.where == Where("handbook.dlm", line, col)
    if what:
        assert (error.what, error.why) == (f"training.{what}", f"it must be {why}")
    elif why:
        assert error.what == why


def test_keys_that_exclude_each_other(found: Found, with_keys: WithKeys) -> None:
    keys = "training:\n  lora_r: 16\n  lora_alpha: 16\n  gate: {enabled: true}\n  adapters:\n    en: {}"
    with pytest.raises(InvalidDocument) as caught:
        parse_text(with_keys(keys), "handbook.dlm")
    told = {(error.what, error.why) for error in caught.value.errors}
    assert ("training.lora_r is 16", "where training.adapters names adapters, each has its own") in told
    assert ("training.gate.enabled is true", "a gate chooses between adapters") in told
    assert not any(what.startswith("training.lora_alpha") for what, _ in told)
    assert found(with_keys("training:\n  gate: {steps: 300}")) == [(6, 17, "training.gate.steps is 300")]
    keys = "training:\n  lr_scheduler: linear\n  cpt: {schedule: dapt}"
    assert found(with_keys(keys)) == [(6, 17, 'training.lr_scheduler is "linear"')]


@pytest.mark.parametrize(
    ("mixes", "col", "what", "why"),
    [
        ("b: {weights: {en: 1, de: 2}}", 43, "export.mixes.b.weights.de is 2", "training.adapters names en"),
        ("en: {weights: {en: 1}}", 22, 'export.mixes.en is {"weights": {"en": 1}}', "an adapter has this name"),
        ("b: {weights: {en: 0}}", 36, 'export.mixes.b.weights is {"en": 0}', "above 0 and at most 10"),
        ("b: {weights: {}}", 31, "export.mixes.b.weights is {}", "names of adapters"),
        ("b: {rank: 3}", 21, 'missing key "weights"', "nothing says what is meant"),
        ("b: {weights: {en: 1}, rank: 0}", 46, "export.mixes.b.rank is 0", "from 1 to 256"),
    ],
)
def test_mixes_are_checked(with_keys: WithKeys, mixes: str, col: int, what: str, why: str) -> None:
    text = with_keys(f"training: {{adapters: {{en: {{}}}}}}\nexport: {{mixes: {{{mixes}}}}}")
    with pytest.raises(InvalidDocument) as caught:
        parse_text(text.replace("dlm_version: 15", "dlm_version: 16"), "handbook.dlm")
    (error,) = caught.value.errors
    assert (error.what, error.where) == (what, Where("handbook.dlm", 6, col)) and why in error.why
    with pytest.raises(InvalidDocument, match=r"export\.mixes in version 15"):
        parse_text(text, "handbook.dlm")


def first_version(with_keys: WithKeys, dpo: str) -> str:
    return with_keys(f"training:\n  dpo:{dpo}").replace("dlm_version: 15", "dlm_version: 1")


def test_version_1_wrote_preferences_in_another_way(with_keys: WithKeys) -> None:
    plain = as_data(parse_text(with_keys("# nothing"), "handbook.dlm"))
    weights = "beta: 0.1, learning_rate: 5e-6, num_epochs: 1"
    for dpo in ("", " {}", f" {{enabled: false, {weights}, loss_type: sigmoid, reference: pre_dpo_adapter}}"):
        assert as_data(parse_text(first_version(with_keys, dpo), "handbook.dlm")) == plain


@pytest.mark.parametrize(
    ("dpo", "line", "col", "what"),
    [
        (" {beta: 2}", 6, 15, "training.preference.hyperparams.beta is 2"),
        (" {enabled: yes}", 6, 18, 'training.preference.enabled is "yes"'),
        ("\n    learning_rate: 0", 7, 20, "training.preference.hyperparams.learning_rate is 0"),
        ("\n    methd: dpo", 7, 5, 'unknown key "methd" in training.dpo'),
        (" 5", 6, 8, "training.preference is 5"),
        (" {}\n  preference: {}", 6, 3, "training.dpo beside training.preference"),
        (" {beta: &x 0.1}", 6, 15, "anchor &x"),
    ],
)
def test_mistakes_in_the_way_of_version_1(
    found: Found, with_keys: WithKeys, dpo: str, line: int, col: int, what: str
) -> None:
    assert found(first_version(with_keys, dpo)) == [(line, col, what)]


def test_later_versions_know_the_new_way_only(with_keys: WithKeys) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_text(with_keys("training:\n  dpo: {}"), "handbook.dlm")
    (error,) = caught.value.errors
    assert (error.what, error.do) == ('unknown key "dpo" in training', "from version 2 on it is training.preference")


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ("training:\n  epochs: 3", 'did you mean "num_epochs"?'),
        ("bse_model: x", 'did you mean "base_model"?'),
        ("seed: 3", "it belongs under training:"),
        ("export:\n  system_prompt: x", "it belongs at the top, not indented"),
        ("training:\n  lora_r: '8'", "delete the quotes"),
        ("training:\n  beta: 1", "it belongs under training.preference.hyperparams:"),
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
        ("num_epochs: 0", '"auto" or a whole number from 1 to 1000'),
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


def test_what_is_wrong_hides_nothing_that_is_not_built(found: Found, with_keys: WithKeys) -> None:
    keys = "training:\n  seed: -1\n  audio: {auto_resample: true}\n  cpt: {schedule: no, embed_warmup_steps: 3}"
    assert [(line, col) for line, col, _ in found(with_keys(keys))] == [(6, 9), (7, 26), (8, 19), (8, 43)]


def test_broken_yaml_does_not_hide_the_body(found: Found) -> None:
    assert found("---\na: [\n---\n::prose\n") == [
        (3, 1, "this is not YAML"),
        (4, 8, "::prose without its closing ::"),
    ]


def test_too_many_mistakes_stop_the_reading(found: Found, head: str) -> None:
    mistakes = found(head + "::prose\n" * 100_000)
    assert len(mistakes) == MOST + 1
    assert mistakes[-1] == (MOST + 5, 8, f"{MOST} mistakes; reading stopped here")
