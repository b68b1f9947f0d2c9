"""What cannot be built is refused before anything heavy runs: what was found, where, why, and what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tiny import make_tiny_base, write_json
from tests.workshop import Ran, Workshop


@pytest.fixture
def base(workshop: Workshop) -> Path:
    make_tiny_base(workshop.folder / "base")
    return workshop.folder / "base"


def refused(workshop: Workshop, *words: str, **environment: str) -> str:
    """What a build says that has to fail in words."""
    told = workshop.doit(*words, code=1, **environment)
    return said(told)


def said(ran: Ran) -> str:
    text = ran.out + ran.err
    assert "Traceback" not in text and "defect" not in text
    assert "→" in text
    return text


def configure(base: Path, **changes: Any) -> None:
    write_json(base / "config.json", {**json.loads((base / "config.json").read_text()), **changes})


# -- the base ----------------------------------------------------------------------------------------------------


def test_target_modules_that_the_base_does_not_have(workshop: Workshop, base: Path) -> None:
    modules = '  target_modules: [q_proj, qproj, "lm_head",\n    ".*"]\n'
    workshop.document("tower", more="training:\n" + modules)
    told = refused(workshop, "plan")
    layers = "those are down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    for place, name in (("6:28", '"qproj"'), ("6:35", '"lm_head"'), ("7:5", '".*"')):
        assert f"tower.dlm:{place}: training.target_modules names {name}, which is no linear layer" in told
    assert told.count(layers) == 3 and 'did you mean "q_proj"?' in told
    workshop.edit("tower", modules, "  target_modules: [q_proj, down_proj]\n")
    workshop.doit("plan")


def test_a_base_of_an_unknown_architecture(workshop: Workshop, base: Path) -> None:
    configure(base, architectures=["FancyForCausalLM"])
    workshop.document("tower")
    told = refused(workshop, "base")
    assert f"{base}/config.json: the base has the architecture 'FancyForCausalLM': known are " in told
    assert "LlamaForCausalLM" in told and "→ write a base_model of one of these" in told
    assert "copying" not in told and ".staging" not in told  # it is looked at where it lies


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_base_with_a_weight_that_is_not_a_number(workshop: Workshop, base: Path, number: float) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = number
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    workshop.document("tower")
    told = refused(workshop, "base")
    assert (
        f"{base}/model.safetensors: this file cannot be used: the tensor 'model.layers.1.mlp.up_proj.weight' " in told
    )
    assert "holds an infinity or" in told and "→ write another base_model" in told and ".staging" not in told


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.safetensors", b"no tensors", "this is not a safetensors file, or it is cut off"),
        ("model.safetensors.index.json", b"{", "this is not sound JSON"),
        ("config.json", b'{"architectures": 3}', "this file cannot be used: 'architectures' is not a list of one name"),
        ("tokenizer.json", b"", "this is not sound JSON"),
    ],
)
def test_a_bad_base_has_its_own_path(workshop: Workshop, base: Path, name: str, content: bytes, told: str) -> None:
    (base / name).write_bytes(content)
    workshop.document("tower")
    found = refused(workshop, "base")
    assert f"{base}/{name}: {told}" in found
    assert ".staging" not in found and "copying" not in found


def test_a_bad_gguf_has_its_own_path(workshop: Workshop) -> None:
    gguf = workshop.folder / "base.gguf"
    gguf.write_bytes(b"GGUF and nothing more")
    workshop.document("tower", base="gguf:./base.gguf")
    found = refused(workshop, "base")
    assert f"{gguf}: " in found and ".staging" not in found


def test_a_link_out_of_the_folder_is_refused_whatever_was_built_before(workshop: Workshop, base: Path) -> None:
    workshop.document("tower")
    workshop.doit("base")
    outside = workshop.folder / "outside.json"
    (base / "config.json").rename(outside)
    (base / "config.json").symlink_to("../outside.json")
    assert f"{base / 'config.json'} is a link that leads out of {base}" in refused(workshop, "base")
    (base / "config.json").unlink()
    outside.rename(base / "real.json")
    (base / "config.json").symlink_to("real.json")
    workshop.doit("base")  # inside, a link is as good as a file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("tokenizer.json", "7"),
        ("tokenizer.json", '{"model": {"type": "BPE"}}'),
        ("tokenizer_config.json", "{"),
        ("chat_template.jinja", "{% if %}"),
        ("chat_template.jinja", "{{ messages[9].role }}"),
    ],
)
def test_a_damaged_base_says_what_to_do(workshop: Workshop, base: Path, name: str, content: str) -> None:
    (base / name).write_text(content)
    workshop.document("tower")
    told = refused(workshop, "dataset")
    assert name in told or "chat template" in told


def test_outputs_that_are_no_numbers(workshop: Workshop, base: Path) -> None:
    """Weights that are numbers may still give outputs that are none."""
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][:] = 3e38
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    workshop.document("tower", more="training: {precision: fp32}\n")
    workshop.doit("check", "base")
    for temperature in ("0", "0.7"):
        told = said(workshop.dlm("prompt", "--base", "--temp", temperature, "tower", "Who?", code=1))
        assert "the outputs of the base are infinite or not a number" in told and "take another base" in told
    told = refused(workshop, "train")
    assert "the loss is nan at step 1: no weight has been changed yet" in told and "→ take another base_model" in told
    assert "precision" not in told and "learning_rate" not in told


# -- the rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "line", "do"),
    [
        ("question", 8, "shorten the question"),
        ("answer", 10, "shorten the answer, or split it in two"),
        ("system_prompt", 5, "shorten system_prompt, which stands before every question"),
    ],
)
def test_a_row_that_is_too_long_blames_what_is_long(
    workshop: Workshop, base: Path, part: str, line: int, do: str
) -> None:
    texts = {"question": "Who?", "answer": "The keeper.", "system_prompt": "Be brief."}
    texts[part] = "lighthouse " * 4000
    body = f"::instruction::\n### Q\n{texts['question']}\n### A\n{texts['answer']}\n"
    workshop.document("tower", body=body, more=f'system_prompt: "{texts["system_prompt"]}"\n')
    told = refused(workshop, "dataset")
    assert f"tower.dlm:{line}:" in told and do in told
    # The tiny base reads 2048 tokens, and `auto` takes all of them.
    assert "sequence_len" not in told


def test_a_row_that_fits_a_longer_row_of_the_base(workshop: Workshop, base: Path) -> None:
    body = f"::instruction::\n### Q\nWho?\n### A\n{'lighthouse ' * 60}\n"
    workshop.document("tower", body=body, more="training:\n  sequence_len: 64\n")
    assert "or set training.sequence_len to " in refused(workshop, "dataset")


def test_questions_and_paragraphs_of_many_megabytes(workshop: Workshop, base: Path) -> None:
    body = f"::instruction::\n### Q\n{'Who trims the lamp ' * 1_000_000}?\n### A\nThe keeper.\n"
    workshop.document("tower", body=body)
    assert "tower.dlm:7:1: this question and its answer are at least " in refused(workshop, "dataset")


def test_a_document_with_nothing_but_probes_and_preferences(workshop: Workshop, base: Path) -> None:
    probe = "::instruction::\n### Q !probe\nWho?\n### A\nThe keeper.\n"
    workshop.document("tower", body=probe)
    told = refused(workshop, "dataset")
    assert "the document has nothing to train: it holds 1 probe questions" in told and "neither" not in told


# -- the machine -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["file", "file/below", "/proc/nope"])
def test_a_home_that_cannot_be_a_folder(workshop: Workshop, home: str) -> None:
    (workshop.folder / "file").touch()
    workshop.document("tower", base="smollm2-135m")
    home = str(workshop.folder / home)
    for script, words in (("doit", ["check"]), ("dlm", ["build", "check"])):
        told = said(workshop.run(script, *words, code=1, DLM_HOME=home))
        assert f"{home} is no folder and cannot become one" in told and "set DLM_HOME to a folder" in told


@pytest.mark.parametrize("words", [["show"], ["show", "tower"], ["gc"], ["gc", "--delete"]], ids=" ".join)
def test_a_home_that_cannot_be_looked_into(workshop: Workshop, words: list[str]) -> None:
    (workshop.folder / "file").touch()
    workshop.document("tower", base="smollm2-135m")
    for home in (workshop.folder / "file", workshop.folder / "file" / "below", Path("/dev/null/x")):
        told = said(workshop.dlm(*words, code=1, DLM_HOME=str(home)))
        assert f"{home} is no folder and cannot become one" in told
    workshop.dlm(*words, DLM_HOME=str(workshop.folder / "nothing" / "yet"))
    for name in ("store", "records"):
        home = workshop.folder / f"home of {name}"
        home.mkdir()
        (home / name).touch()
        told = said(workshop.dlm(*words, code=1, DLM_HOME=str(home)))
        assert f"{home / name} cannot be looked into: Not a directory" in told
    if os.getuid():
        (workshop.folder / "closed").mkdir(mode=0)
        told = said(workshop.dlm(*words, code=1, DLM_HOME=str(workshop.folder / "closed")))
        assert "closed cannot be looked into: Permission denied" in told


@pytest.mark.parametrize("seconds", ["abc", "-1", "nan", "inf"])
def test_seconds_between_checkpoints_that_are_none(workshop: Workshop, base: Path, seconds: str) -> None:
    workshop.document("tower")
    told = refused(workshop, "train", DLM_CHECKPOINT_SECONDS=seconds)
    assert f"DLM_CHECKPOINT_SECONDS is '{seconds}', not a number of seconds" in told


def test_nothing_is_fetched_for_a_document_with_a_mistake_in_its_body(workshop: Workshop, base: Path) -> None:
    workshop.document("tower", body="::instruction::\n### Q\nWho?\n")
    for seed, words in enumerate(
        ([], ["export:Q8_0"], ["export:tower"], ["train"], ["merge:tower:Q4_K_M"], ["parity"])
    ):
        ran = workshop.doit(*words, code=None, PYTHONHASHSEED=str(seed))
        assert ran.code and "tower.dlm:" in ran.err and ran.steps == []
    assert not (workshop.home / "bases").exists()


@pytest.mark.parametrize("verb", ["export", "hub", "ollama", "runtime"])
def test_what_stands_for_every_document_fails_with_those_that_have_mistakes(workshop: Workshop, verb: str) -> None:
    workshop.document("harbour", base="smollm2-135m", more="learning: 3\n")
    for words in (verb, f"{verb}:{'vllm' if verb == 'runtime' else 'Q8_0'}"):
        assert "harbour.dlm:5:1:" in workshop.doit(words, code=1).err


def test_a_pipe_with_a_documents_name_is_told_and_not_read(workshop: Workshop, base: Path) -> None:
    workshop.document("tower")
    os.mkfifo(workshop.folder / "pipe.dlm")
    ran = workshop.doit("check", code=None)
    assert ran.code == 1 and ran.steps == ["check:tower"] and "pipe.dlm: not a plain file" in ran.err
    assert "pipe.dlm" in workshop.dlm("show").err


def test_where_a_base_is_looked_for_is_told_as_it_is(workshop: Workshop, tmp_path: Path) -> None:
    workshop.document("book", base="hf:org/nowhere@main")
    ran = workshop.doit("base", code=1, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert "looking for org/nowhere in the hub's cache\n" in ran.out and "http" not in ran.out
    assert "HF_HUB_OFFLINE forbids to fetch it" in ran.err and "Traceback" not in ran.err
    closed = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    assert "asking http://127.0.0.1:9 for org/nowhere\n" in workshop.doit("base", code=1, **closed).out


# -- the export --------------------------------------------------------------------------------------------------


def test_a_tokenizer_with_a_token_that_the_embedding_lacks(workshop: Workshop, base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 1199, "content": "<|more|>"})
    write_json(base / "tokenizer.json", tokenizer)
    workshop.document("tower")
    told = workshop.doit("gguf", code=1)
    assert "the token '<|more|>' has the id 1199: the embedding has 700 rows" in told.err
    assert "Traceback" not in told.err and not list(workshop.home.rglob("base.F16.gguf"))


def test_an_adapter_that_says_it_is_of_another_base_is_put_back_before_it_is_merged(built: Workshop) -> None:
    (version,) = (built.store / "adapter" / "versions").iterdir()
    run = json.loads((version / "training_run.json").read_text())
    run["base"]["files"]["model.safetensors"] = "a" * 64
    (version / "training_run.json").unlink()  # a link to what is kept
    write_json(version / "training_run.json", run)
    ran = built.doit("export:tower:Q8_0")
    assert ran.restored == ["train:tower"] and "export:tower:Q8_0" in ran.steps
