"""llama.cpp itself loads what is written here and computes with it what transformers computes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from dlmbuild.base_models.dequantize import checkpoint_from_gguf
from dlmbuild.export.conversion import convert_adapter, convert_base
from dlmbuild.export.merge import merge_quantized
from dlmbuild.export.quantize import quantize_base
from tests.tiny import make_tiny_adapter, make_tiny_base, write_json

pytest.importorskip("xllamacpp")

TEXTS = [
    "The keeper climbs 212 steps.",
    "a  23 ½ x² 3.14",
    "<|im_start|>user\nWho approves travel?<|im_end|>\n<|im_start|>assistant\n",
    "  \n\n\t tabs and   spaces  ",
    "ß🙂漢字 <|im_end",
    "it's we'LL don't",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base with K-quant sized rows, an adapter with folded scales, and every file made of them."""
    folder = tmp_path_factory.mktemp("made")
    make_tiny_base(folder / "base", hidden=256)
    make_tiny_adapter(
        folder / "adapter",
        folder / "base",
        alpha=1,
        use_rslora=True,
        ranks={"q_proj": 8},
        alpha_pattern={"down_proj": 2},
    )
    convert_base(folder / "base", folder / "base.F16.gguf", name="tiny")
    convert_adapter(folder / "adapter", folder / "base", folder / "adapter.gguf")
    for quant in ("F16", "Q8_0", "Q4_K_M"):
        base = folder / f"base.{quant}.gguf"
        quantize_base(folder / "base.F16.gguf", quant, base, threads=2)
        out = folder / f"model.{quant}.gguf"
        merge_quantized(folder / "base", folder / "adapter", base, quant, out, name="merged", threads=2)
    yield folder


def prompts(base: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    ids = tokenizer.encode("".join(TEXTS)).ids
    return [ids[: 4 * length] for length in range(1, 13)]


def answers(base: Path, model: Path, lora: Path | None = None, asked: list[list[int]] | None = None) -> dict[str, Any]:
    """What the library says of `asked` or `prompts(base)`, after it was held to what the server says."""
    given = {
        "model": str(model),
        "lora": str(lora) if lora else None,
        "texts": TEXTS,
        "prompts": asked or prompts(base),
    }
    script = Path(__file__).with_name("llama_cpp_answers.py")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(given), capture_output=True, text=True, cwd=root, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    server = said["server"]
    shown = [number for number, candidates in enumerate(server["next"]) if candidates]
    theirs, ours = ([some["next"][number] for number in shown] for some in (server, said))
    same, worst = compare({"next": theirs}, [dict(candidates) for candidates in ours])
    assert (same, worst < 0.02, said["tokens"]) == (len(shown), True, server["tokens"]), worst
    return {**said, "shown": len(shown)}


def compare(found: dict[str, Any], wanted: list[dict[int, float]]) -> tuple[int, float]:
    """At how many prompts the best token is one of the best, and the largest difference among the candidates.

    Random models have ties: a token within 0.01 of the best counts as best.
    """
    same, worst = 0, 0.0
    for candidates, exact in zip(found["next"], wanted, strict=True):
        same += exact.get(candidates[0][0], -100.0) > max(exact.values()) - 0.01
        worst = max(worst, *(abs(value - exact[token]) for token, value in candidates if token in exact))
    return same, worst


def as_wanted(found: dict[str, Any]) -> list[dict[int, float]]:
    return [dict(candidates) for candidates in found["next"]]


def transformers_says(base: Path, adapter: Path | None = None) -> list[dict[int, float]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0, -1] for ids in prompts(base)]
    return [dict(enumerate(torch.log_softmax(one, dim=-1).tolist())) for one in logits]


def test_tokens_are_those_of_the_tokenizer(made: Path) -> None:
    tokenizer = Tokenizer.from_file(str(made / "base" / "tokenizer.json"))
    found = answers(made / "base", made / "base.Q8_0.gguf")["tokens"]
    assert found == [tokenizer.encode(text).ids for text in TEXTS]


def test_of_a_text_that_is_computed_in_parts_the_library_says_what_the_server_does(made: Path) -> None:
    tokenizer = Tokenizer.from_file(str(made / "base" / "tokenizer.json"))
    ids = tokenizer.encode("".join(TEXTS) * 20).ids[:900]
    asked = [ids[:length] for length in (1, 2, 511, 512, 513, 700, 900)]  # 512 at a time
    for lora in (None, made / "adapter.gguf"):
        found = answers(made / "base", made / "base.F16.gguf", lora, asked)
        assert 5 < found["shown"] <= len(found["next"]) == 7


def test_an_adapter_beside_its_base_is_the_merged_model(made: Path) -> None:
    beside = answers(made / "base", made / "base.F16.gguf", made / "adapter.gguf")
    merged = answers(made / "base", made / "model.F16.gguf")
    base = answers(made / "base", made / "base.F16.gguf")
    same, worst = compare(merged, as_wanted(beside))
    assert (same, worst < 0.02) == (12, True), worst
    assert compare(base, as_wanted(beside))[1] > 0.5  # so the adapter does something


@pytest.mark.parametrize(("quant", "near"), [("Q8_0", 0.3), ("Q4_K_M", 1.5)])
def test_quantised_models_load_and_stay_near(made: Path, quant: str, near: float) -> None:
    exact = as_wanted(answers(made / "base", made / "model.F16.gguf"))
    assert compare(answers(made / "base", made / f"model.{quant}.gguf"), exact)[1] < near
    beside = as_wanted(answers(made / "base", made / "base.F16.gguf", made / "adapter.gguf"))
    assert compare(answers(made / "base", made / f"base.{quant}.gguf", made / "adapter.gguf"), beside)[1] < near


@pytest.mark.model
def test_f16_computes_what_transformers_computes(made: Path) -> None:
    same, worst = compare(answers(made / "base", made / "base.F16.gguf"), transformers_says(made / "base"))
    assert (same, worst < 0.02) == (12, True), worst


@pytest.mark.model
def test_the_adapter_computes_what_peft_computes(made: Path) -> None:
    wanted = transformers_says(made / "base", made / "adapter")
    for model, lora in (("base.F16.gguf", made / "adapter.gguf"), ("model.F16.gguf", None)):
        same, worst = compare(answers(made / "base", made / model, lora), wanted)
        assert (same, worst < 0.02) == (12, True), (model, worst)


@pytest.mark.model
def test_a_checkpoint_from_a_gguf_computes_what_the_gguf_does(made: Path, tmp_path: Path) -> None:
    checkpoint_from_gguf(made / "base.F16.gguf", tmp_path / "back")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    found = answers(made / "base", made / "base.F16.gguf")
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == found["tokens"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    messages = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered.startswith("<|im_start|>system\nYou are a small") and rendered.endswith("<|im_start|>assistant\n")
    same, worst = compare(found, transformers_says(tmp_path / "back"))
    assert (same, worst < 0.02) == (12, True), worst


@pytest.mark.model
def test_the_rotary_factors_of_llama_31_compute_alike(made: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_tiny_base(base, hidden=64)
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    write_json(base / "config.json", config)
    convert_base(base, tmp_path / "f16.gguf", name="tiny")
    same, worst = compare(answers(base, tmp_path / "f16.gguf"), transformers_says(base))
    assert (same, worst < 0.02) == (12, True), worst
