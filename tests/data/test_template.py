from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.data.rows import conversation
from dlmbuild.data.template import ChatTemplate, special_tokens
from dlmbuild.errors import BaseModelError, DataError
from tests.tiny import CHAT_TEMPLATE

ASKED = conversation("Who trims the lamp?", None, None)
ANSWERED = conversation("Who trims the lamp?", "The keeper.", "You are helpful.")
LLAMA = (
    "{{- bos_token }}{%- for m in messages %}{{- '<|start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|eot|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant\n\n' }}{%- endif %}"
)
STRICT = (
    "{%- for m in messages %}{%- if m.role == 'system' %}{{- raise_exception('no system role here') }}{%- endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
FORGETFUL = (  # drops the system prompt as soon as there is an answer
    "{% for m in messages %}{% if not (m.role == 'system' and messages[-1].role == 'assistant') %}"
    "<{{ m.role }}>{{ m.content }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHY = (  # ends an answer only when it is short
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.content | length < 20 %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% generation %}{% set end = '<end>' %}[{{ m.role }}]{{ m.content }}{{ end }}"
    "{% endgeneration %}{{ end }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


def test_renders_up_to_the_answer() -> None:
    text = ChatTemplate(CHAT_TEMPLATE, {}).render(ASKED, ask=True)
    assert text == (
        "<|im_start|>system\nYou are a small random model<|im_end|>\n"
        "<|im_start|>user\nWho trims the lamp?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "turn_end"), [(CHAT_TEMPLATE, "<|im_end|>"), (LLAMA, "<|eot|>"), (STRICT, "</s>"), (SHY, "<end>")]
)
def test_the_end_of_a_turn_is_found(source: str, turn_end: str) -> None:
    assert template(source).turn_end == turn_end


def test_an_answer_is_cut_where_it_begins_and_ends_with_its_turn() -> None:
    given, learned = template(CHAT_TEMPLATE).answer(ANSWERED)
    assert given.endswith("<|im_end|>\n<|im_start|>assistant\n") and "You are helpful." in given
    assert learned == "The keeper.<|im_end|>"
    assert given == template(CHAT_TEMPLATE).render(ANSWERED[:-1], ask=True)


def test_an_answer_that_holds_the_end_of_a_turn_is_whole() -> None:
    _, learned = template(CHAT_TEMPLATE).answer(conversation("Q", "one<|im_end|>two", None))
    assert learned == "one<|im_end|>two<|im_end|>"


def test_special_tokens_are_named_in_the_template() -> None:
    assert template(LLAMA).render(ASKED, ask=False).startswith("<s><|start|>user")


def test_whitespace_control_is_that_of_transformers() -> None:
    source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}<end>\n    {% endif %}\n{% endfor %}\n"
    assert template(source).render(ASKED, ask=False) == "Who trims the lamp?<end>\n"


def test_loop_controls_and_tojson() -> None:
    source = "{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}"
    assert template(source).render([{"role": "user", "content": "ä<b>"}] * 2, ask=False) == (
        '{"role": "user", "content": "ä<b>"}'
    )


@pytest.mark.parametrize(
    "source",
    [
        STRICT,
        "{{ nothing.there.at.all }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{% nonsense %}",
        "{{ messages[0] + 1 }}",
        "{{ messages[0].content.no_such_method() }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[7].role }}",
        "{{ messages[0].content | int(x=2) }}",
        "{{ [].pop() }}",
    ],
)
def test_a_template_that_fails_says_so_in_words(source: str) -> None:
    with pytest.raises(DataError, match="the base's chat template refuses this conversation") as caught:
        template(source).render(ANSWERED, ask=False)
    assert caught.value.why == "roles: system, user, assistant"


def test_a_template_that_changes_what_was_said_before() -> None:
    with pytest.raises(BaseModelError, match="renders a question differently once it is answered"):
        template(FORGETFUL).answer(ANSWERED)
    assert template(FORGETFUL).answer(conversation("Q", "A", None)) == ("<user>Q<end><assistant>", "A<end>")


def test_a_template_that_does_not_end_an_answer() -> None:
    with pytest.raises(BaseModelError, match="does not mark the end of an answer"):
        assert template(PLAIN).turn_end
    with pytest.raises(BaseModelError, match="leaves out '<end>'"):
        template(SHY).answer(conversation("Q", "an answer of more than twenty letters", None))


# -- from a checkpoint folder ----------------------------------------------------------------------------------


def test_the_file_wins_over_the_configuration(base: Path, configure: Callable[..., None]) -> None:
    configure(chat_template=PLAIN)
    assert ChatTemplate.from_base(base).source == CHAT_TEMPLATE
    (base / "chat_template.jinja").unlink()
    assert ChatTemplate.from_base(base).source == PLAIN
    configure(chat_template=[{"name": "tool_use", "template": "no"}, {"name": "default", "template": PLAIN}])
    assert ChatTemplate.from_base(base).source == PLAIN


@pytest.mark.parametrize("value", [None, "", "  \n", 7, [], {"a": 1}, [{"name": "tool_use", "template": PLAIN}, 7]])
def test_no_template(base: Path, configure: Callable[..., None], value: object) -> None:
    (base / "chat_template.jinja").unlink()
    configure(chat_template=value)
    with pytest.raises(BaseModelError, match="the base has no chat template"):
        ChatTemplate.from_base(base)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"a": 1, "a": 2}'])
def test_a_damaged_configuration(base: Path, data: bytes) -> None:
    (base / "tokenizer_config.json").write_bytes(data)
    with pytest.raises(BaseModelError):
        ChatTemplate.from_base(base)


def test_files_that_cannot_be_read(base: Path) -> None:
    (base / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(BaseModelError, match="the base's chat template cannot be read"):
        ChatTemplate.from_base(base)
    (base / "tokenizer_config.json").unlink()
    with pytest.raises(BaseModelError):
        ChatTemplate.from_base(base)


def test_special_tokens_in_both_spellings() -> None:
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None, "x_token": "x"}
    assert special_tokens(config) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert special_tokens({"bos_token": 7, "eos_token": {"content": 7}}) == {}


# -- against transformers --------------------------------------------------------------------------------------


@pytest.mark.model
@pytest.mark.parametrize("source", [CHAT_TEMPLATE, LLAMA, FORGETFUL, SHY, PLAIN, GENERATION])
def test_equal_to_transformers(base: Path, source: str) -> None:
    from transformers import AutoTokenizer

    (base / "chat_template.jinja").write_text(source)
    theirs, ours = AutoTokenizer.from_pretrained(base), ChatTemplate.from_base(base)
    conversations = [
        ASKED,
        ANSWERED,
        [*ANSWERED, {"role": "user", "content": "  And\n\nwhen? "}],
        conversation("ä <b> {{ x }} {% if %} <|im_end|>", '"quoted"\t', None),
        conversation("", "", "\n"),
    ]
    for messages in conversations:
        for ask in (True, False):
            expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
            assert ours.render(messages, ask=ask) == expected, json.dumps(messages)


def test_a_template_that_asks_for_the_date_is_told_the_same_day_always() -> None:
    found = template("It is {{ strftime_now('%d %B %Y') }}. " + GENERATION)
    assert found.render(ASKED, ask=True) == "It is 26 July 2024. [user]Who trims the lamp?<end>[assistant]"
    assert found.asks_for_the_date == "26 July 2024" and template(PLAIN).asks_for_the_date == ""
