from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlmbuild.doc.prompt import what_is_lost
from dlmbuild.errors import ExportError
from dlmbuild.export.ollama.modelfile import DRAWN, modelfile

PLAIN: dict[str, Any] = {
    "parameters": {"stop": ["<|im_end|>", "<|endoftext|>"], "temperature": 0.0, "num_ctx": 4096, "seed": 42},
    "system": None,
    "license": "",
    "template": None,
}


def written(**changes: Any) -> str:
    comment = "01HZX3Q5J8K9M2N4P6R8T0V2W4 on smollm2-135m, Q4_K_M."
    return modelfile("model.Q4_K_M.gguf", comment, {**PLAIN, **changes})


def test_golden() -> None:
    assert written() == (
        "# 01HZX3Q5J8K9M2N4P6R8T0V2W4 on smollm2-135m, Q4_K_M.\n"
        "FROM ./model.Q4_K_M.gguf\n"
        'PARAMETER stop "<|im_end|>"\n'
        'PARAMETER stop "<|endoftext|>"\n'
        "PARAMETER temperature 0\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER seed 42\n"
    )


def test_golden_with_everything() -> None:
    whole = written(
        parameters={"stop": [], "temperature": 0.7, **DRAWN, "top_p": 0.95, "num_ctx": 4096, "seed": 42},
        system='You are "Bram", {{ helpful }}.\n\n  # no comment\nFROM nowhere\\n',
        license="Apache-2.0 https://example.org",
    )
    assert whole.partition("PARAMETER temperature")[2] == (
        " 0.7\n"
        "PARAMETER top_p 0.95\n"
        "PARAMETER top_k 0\n"
        "PARAMETER min_p 0\n"
        "PARAMETER num_ctx 4096\n"
        "PARAMETER seed 42\n"
        'SYSTEM """You are "Bram", {{ helpful }}.\n\n  # no comment\nFROM nowhere\\n"""\n'
        'LICENSE """Apache-2.0 https://example.org"""\n'
    )


def test_what_ollama_would_cut_off_by_itself_is_written_where_tokens_are_drawn() -> None:
    drawn = written(parameters={"temperature": 0.7, **DRAWN})
    assert "PARAMETER top_p 1\nPARAMETER top_k 0\nPARAMETER min_p 0\n" in drawn


def test_no_adapter() -> None:
    assert "ADAPTER" not in written(system="x", template="{{ .System }}")


def test_a_template_stands_as_it_is() -> None:
    assert 'TEMPLATE """{{ .System }}\n"a" """\n' in written(template='{{ .System }}\n"a" ')


@pytest.mark.parametrize("stop", ['say "stop"', "two\nlines"])
def test_a_stop_that_cannot_be_quoted(stop: str) -> None:
    with pytest.raises(ExportError, match=r"a stop token is .* which a Modelfile cannot express"):
        assert written(parameters={"stop": [stop]})


@pytest.mark.parametrize("system", ['a """\nb', '"""\n', 'x """ \t\n\nb', '"""\r'])
def test_a_system_prompt_that_cannot_be_quoted(system: str) -> None:
    with pytest.raises(ExportError, match="system_prompt has a line that ends in") as caught:
        assert written(system=system)
    assert caught.value.do


def read_system(text: str) -> str:
    """The SYSTEM of a Modelfile as Ollama reads it: at the end of each line it asks whether the value is whole."""
    value = ""
    for char in text.partition("SYSTEM ")[2]:
        whole = value.strip()
        if char in "\n\r" and len(whole) >= 6 and whole.startswith('"""') and whole.endswith('"""'):
            return whole[3:-3]
        if char.isprintable() or char in "\n\r\t":
            value += char
    raise AssertionError("the value does not end")


@settings(max_examples=300)
@given(st.text('" \n\r\tab\u00a0\u200d', max_size=12) | st.text(max_size=20))
@example('she said "yes"')
@example('a """ b')
@example('ends in three """')
@example('"')
def test_ollama_reads_back_every_system_prompt_that_check_lets_pass(system: str) -> None:
    prompt = system.strip("\n")
    if prompt and not what_is_lost(prompt):
        assert read_system(written(system=prompt)) == prompt
