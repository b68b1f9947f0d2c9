"""Go templates made of jinja templates: what they render is what the jinja renders, on conversations of every shape."""

from __future__ import annotations

import pytest

from dlmbuild.data.template import ChatTemplate, Message
from dlmbuild.export.ollama.templates import go_template
from tests.export.go_template import render_go
from tests.tiny import CHAT_TEMPLATE

TURN = "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
FAMILIES = {
    "chatml": CHAT_TEMPLATE,
    "phi 3": "{% for m in messages %}"
    + TURN
    + "{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}",
    "llama 3": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% else %}{% set said = '' %}{% endif %}"
        "<|start|>system<|stop|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n{{ said }}<|eot|>"
        "{% for m in messages %}<|start|>{{ m['role'] }}<|stop|>\n\n{{ m['content'] }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
        "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else 'user' %}"
        "<start_of_turn>{{ role }}\n{{ first if loop.first else '' }}{{ m['content'] }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set s = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (s if loop.first else '') }}"
        "{{ m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "no system prompt": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        + TURN
        + "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "braces": "{% for m in messages %}{{ '{{' + m['role'] + '}} ' + m['content'] + '\n' }}{% endfor %}{{ '{{a}}' }}",
}
SYSTEM: Message = {"role": "system", "content": "You keep {{ a }} lighthouse."}
TALK: list[Message] = [
    {"role": "user", "content": "Who trims\n\nthe lamp?"},
    {"role": "assistant", "content": 'The "keeper".'},
    {"role": "user", "content": "{{ .System }} when?"},
    {"role": "assistant", "content": "At dusk."},
    {"role": "user", "content": "Why?"},
]
BOS = "<s>"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": BOS, "eos_token": "</s>"})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_what_ollama_renders_is_what_was_trained(family: str, adds_bos: bool) -> None:
    jinja = template(FAMILIES[family])
    go = go_template(jinja, adds_bos=adds_bos)
    assert go is not None
    for length in (1, 3, 5):
        for system in ([], [SYSTEM]) if family != "no system prompt" else ([],):
            talk = [*system, *TALK[:length]]
            expected = jinja.render(talk, ask=True)
            found = render_go(go, talk)
            # llama.cpp puts the token in front again, once: what begins with it would have it twice.
            assert found == (expected.removeprefix(BOS) if adds_bos else expected)


@pytest.mark.parametrize(
    "source",
    [
        # The system prompt stands before the last question, wherever that is (Mistral 0.3).
        "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}[INST]"
        "{{ messages[0]['content'] if loop.last and messages[0]['role'] == 'system' }}{{ m['content'] }}[/INST]"
        "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}",
        # What was said is shortened.
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'][:15] }}{% endfor %}<assistant>",
        # Each turn has its number.
        "{% for m in messages %}{{ loop.index }}{{ m['role'] }}:{{ m['content'] }}{% endfor %}",
        "{{ raise_exception('no') }}",
        # A Modelfile would end there.
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\"\"\"\n{% endfor %}",
    ],
)
def test_no_template_where_it_would_differ(source: str) -> None:
    assert go_template(template(source), adds_bos=False) is None
