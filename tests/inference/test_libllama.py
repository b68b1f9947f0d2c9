"""llama.cpp's library beside its server on memories of all kinds, and what is refused: other builds, and bad files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlmbuild.errors import JobError, MissingExtra, SmokeError
from dlmbuild.export.conversion import convert_adapter, convert_base
from dlmbuild.inference import libllama
from dlmbuild.inference.libllama import LibLlama
from dlmbuild.io.digest import canonical_json
from dlmbuild.io.gguf_file import Planned, entry, read_header, write_gguf
from dlmbuild.jobs.environment import job_environment
from dlmbuild.jobs.local import run_job
from tests.export.test_llama_cpp import answers
from tests.tiny import make_tiny_adapter, make_tiny_base

pytest.importorskip("xllamacpp")

_HIDDEN, _INNER, _STATE, _RANK, _KERNEL = 64, 128, 16, 4, 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random base, as a checkpoint and as GGUF."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder / "base")
    convert_base(folder / "base", folder / "base.gguf", name="tiny")
    return folder


# -- what it says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_models_that_remember_otherwise(base: Path, tmp_path: Path, kind: str) -> None:
    """Recurrent ones, and those that are it in part."""
    write_model(tmp_path / "model.gguf", kind, base / "base.gguf")
    found = answers(base / "base", tmp_path / "model.gguf")
    assert found["shown"] > 5
    assert len({candidates[0][0] for candidates in found["next"]}) > 3  # it does not always say the same


def write_model(path: Path, kind: str, vocabulary: Path) -> None:
    """Write a random model of two layers with the vocabulary of another GGUF."""
    header = read_header(vocabulary)
    tokens = len(header.metadata["tokenizer.ggml.tokens"])
    numbers = {"context_length": 512, "embedding_length": _HIDDEN, "block_count": 2, "vocab_size": tokens}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (tokens, _HIDDEN)}
    recurrent: dict[str, tuple[int, ...]] = {"attn_norm.weight": (_HIDDEN,)}
    if kind == "mamba":
        numbers |= {"feed_forward_length": 0, "attention.head_count": 0}
        numbers |= {"ssm.conv_kernel": _KERNEL, "ssm.inner_size": _INNER}
        numbers |= {"ssm.state_size": _STATE, "ssm.time_step_rank": _RANK}
        recurrent |= {"ssm_in.weight": (2 * _INNER, _HIDDEN), "ssm_conv1d.weight": (_INNER, _KERNEL)}
        recurrent |= {"ssm_conv1d.bias": (_INNER,), "ssm_x.weight": (_RANK + 2 * _STATE, _INNER)}
        recurrent |= {"ssm_dt.weight": (_INNER, _RANK), "ssm_dt.bias": (_INNER,)}
        recurrent |= {"ssm_a": (_INNER, _STATE), "ssm_d": (_INNER,), "ssm_out.weight": (_HIDDEN, _INNER)}
        layers = [recurrent, recurrent]
        shapes["output_norm.weight"] = (_HIDDEN,)
    else:
        numbers |= {"feed_forward_length": _INNER, "attention.head_count": 4, "shortconv.l_cache": 3}
        both: dict[str, tuple[int, ...]] = {"ffn_norm.weight": (_HIDDEN,), "ffn_gate.weight": (_INNER, _HIDDEN)}
        both |= {"ffn_up.weight": (_INNER, _HIDDEN), "ffn_down.weight": (_HIDDEN, _INNER), **recurrent}
        convolved = {"shortconv.conv.weight": (_HIDDEN, 3), "shortconv.in_proj.weight": (3 * _HIDDEN, _HIDDEN)}
        attending: dict[str, tuple[int, ...]] = {"attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,)}
        attending |= {f"attn_{name}.weight": (_HIDDEN, _HIDDEN) for name in ("q", "output")}
        attending |= {f"attn_{name}.weight": (32, _HIDDEN) for name in ("k", "v")}
        layers = [{**both, **convolved, "shortconv.out_proj.weight": (_HIDDEN, _HIDDEN)}, {**both, **attending}]
        shapes["token_embd_norm.weight"] = (_HIDDEN,)
    shapes |= {f"blk.{at}.{name}": shape for at, layer in enumerate(layers) for name, shape in layer.items()}
    entries = [entry("general.architecture", kind), *(entry(f"{kind}.{k}", v) for k, v in numbers.items())]
    entries += [entry(f"{kind}.attention.layer_norm_rms_epsilon", 1e-5)]
    entries += [entry(f"{kind}.attention.head_count_kv", [0, 2])] if kind == "lfm2" else []
    entries += [held for name, held in header.entries.items() if name.startswith("tokenizer.")]
    random = np.random.default_rng(0)

    def data(planned: Planned) -> list[bytes]:
        weights = random.standard_normal(planned.shape) * planned.shape[-1] ** -0.5
        if "norm" in planned.name or planned.name.endswith("ssm_a"):
            weights = 1 + weights if "norm" in planned.name else -np.exp(weights)
        return [weights.astype("<f4").tobytes()]

    write_gguf(path, entries, [Planned(name, "F32", shape) for name, shape in shapes.items()], data)


ASK = """
import json, os, sys
from pathlib import Path
from dlmbuild.inference.libllama import LibLlama
from dlmbuild.inference.llama_cpp import LlamaCpp
model, prompts, limits, together = json.loads(sys.argv[1])
server = LlamaCpp(Path(model))
asked = [{"prompt": ids, "n_predict": most, "temperature": 0} for ids, most in zip(prompts, limits)]
replies = [server._post("/completion", {**one, "cache_prompt": False}) for one in asked]
served = [[reply["content"], reply["stop_type"] == "eos"] for reply in replies]
found = [[*LibLlama(Path(model), longest=64, at_once=count).answers(prompts, limits)] for count in (1, together)]
tokens = LibLlama(Path(model), longest=64)._continued(prompts[:1], limits)[0]
print("\\n" + json.dumps([served, *found, tokens]), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["llama", "mamba", "lfm2"])
def test_many_answers_at_once(base: Path, tmp_path: Path, kind: str) -> None:
    """They are the server's: of prompts that begin alike or not, some longer than others, some with an end."""
    model = base / "base.gguf"
    if kind != "llama":
        write_model(model := tmp_path / "model.gguf", kind, base / "base.gguf")
    prompts = [[9, 9, 9, *range(20, 20 + more), 40 + 7 * more] for more in range(6)] + [[5], [9, 9], [11, 12, 13]]
    served, alone, together, tokens = asked(model, prompts)
    assert served == alone == together and len({text for text, _ in served}) > 4
    assert not any(ended for _, ended in served)
    # The same model, in which one of these tokens ends an answer.
    whole = model.read_bytes()
    end = entry("tokenizer.ggml.eos_token_id", read_header(model).metadata["tokenizer.ggml.eos_token_id"])
    assert whole.count(end) == 1
    (tmp_path / "ends.gguf").write_bytes(whole.replace(end, entry("tokenizer.ggml.eos_token_id", tokens[5])))
    served, alone, together, _ = asked(tmp_path / "ends.gguf", prompts)
    assert served == alone == together and any(ended for _, ended in served)


def asked(model: Path, prompts: list[list[int]]) -> Any:
    given = json.dumps([str(model), prompts, [24, 1, 24, 12, 24, 24, 24, 24, 24], 4])
    environment = job_environment(threads=2, network=False)
    done = subprocess.run([sys.executable, "-c", ASK, given], capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.strip().splitlines()[-1])


# -- other builds of llama.cpp -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "word", "value"), [
    ("_MODEL", libllama._GPU_LAYERS, 0), ("_CONTEXT", libllama._N_THREADS, 8), ("_CONTEXT", 3, 256),
])  # fmt: skip
def test_structures_that_begin_otherwise(monkeypatch: pytest.MonkeyPatch, name: str, word: int, value: int) -> None:
    monkeypatch.setitem(getattr(libllama, name), word, value)
    assert "its default parameters are" in refused() and str(value) in refused().partition("and not")[2]


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xllamacpp.__version__", "2026.1.1")
    assert refused() == "it is 2026.1.1"


def test_an_extension_module_that_exports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xllamacpp.xllamacpp.__file__", np._core._multiarray_umath.__file__)
    assert refused() == "its extension module exports no llama_log_set, as those for Linux and macOS do"


def refused() -> str:
    """Why nothing is loaded."""
    with pytest.raises(MissingExtra, match=r"exports are compared by the llama\.cpp in xllamacpp 2026") as caught:
        LibLlama(Path("no.gguf"), longest=8)
    assert caught.value.do.startswith("pip install --force-reinstall xllamacpp==2026")
    return caught.value.why


# -- bad files ---------------------------------------------------------------------------------------------------


def compared(folder: Path, gguf: Path, lora: Path | None = None, ids: Sequence[int] = (5, 6, 7)) -> None:
    """Hold a GGUF to a reference of three tokens, in a process of its own."""
    best: dict[str, Any] = {"best": [[6, 7], [7, 8]], "logprob": [[-1.0, -2.0], [-1.0, -2.0]]}
    compared = [{"text": "", "ids": list(ids), "first": 1, **best}]
    (folder / "reference.json").write_bytes(canonical_json({"probes": [], "compared": compared}))
    files = {"gguf": gguf, "reference": folder / "reference.json", **({"lora": lora} if lora else {})}
    numbers = {"report": "report.json", "least_agreement": 0.0}
    (folder / "out").mkdir(exist_ok=True)
    run_job("compare", inputs=files, params=numbers, out=folder / "out", log=folder / "log")


@pytest.mark.parametrize(("share", "why"), [
    (0.5, "data is not within the file bounds, model is corrupted or incomplete"), (0.01, "failed to read key-value"),
])  # fmt: skip
def test_a_file_that_ends_early(base: Path, tmp_path: Path, share: float, why: str) -> None:
    whole = (base / "base.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SmokeError, match=r"llama\.cpp does not load half\.gguf") as caught:
        compared(tmp_path, tmp_path / "half.gguf")
    assert why in caught.value.why and "export another quantisation" in caught.value.do


def test_an_adapter_of_another_base(base: Path, tmp_path: Path) -> None:
    compared(tmp_path, base / "base.gguf")
    make_tiny_base(tmp_path / "wide", hidden=256)
    make_tiny_adapter(tmp_path / "adapter", tmp_path / "wide")
    convert_adapter(tmp_path / "adapter", tmp_path / "wide", tmp_path / "adapter.gguf")
    with pytest.raises(SmokeError, match=r"llama\.cpp does not load adapter\.gguf") as caught:
        compared(tmp_path, base / "base.gguf", tmp_path / "adapter.gguf")
    assert "maybe wrong base model?" in caught.value.why
    with pytest.raises(SmokeError, match=r"llama\.cpp does not load base\.gguf") as caught:
        compared(tmp_path, base / "base.gguf", base / "base.gguf")
    assert "expect general.type to be 'adapter'" in caught.value.why


def test_tokens_that_are_none(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SmokeError, match=r"compute with base\.gguf: llama_decode returns -1") as caught:
        compared(tmp_path, base / "base.gguf", ids=(5, 9_999, 7))
    assert "invalid token[1] = 9999" in caught.value.why


def test_a_file_that_ends_the_process(base: Path, tmp_path: Path) -> None:
    whole = (base / "base.gguf").read_bytes()
    layers = entry("llama.block_count", 2)
    assert whole.count(layers) == 1
    (tmp_path / "none.gguf").write_bytes(whole.replace(layers, entry("llama.block_count", 0)))
    with pytest.raises(JobError, match=r"the job 'compare' died \(signal SIGABRT\)") as caught:
        compared(tmp_path, tmp_path / "none.gguf")
    assert "GGML_ASSERT" in caught.value.why
