"""How an adapter is trained, as the frontmatter chooses: other kinds of adapters, and what exports make of them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dlmbuild.io.gguf_file import read_header
from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    make_tiny_base(workshop.folder / "base")
    return workshop


def adapter(shop: Workshop, name: str = "adapter_config.json") -> Path:
    folder = shop.store / "adapter"
    return folder / (folder / "current.txt").read_text().strip() / name


def agreement(shop: Workshop, name: str) -> float:
    return float(json.loads((shop.store / "cache" / name).read_bytes())["agreement"])


def ready(shop: Workshop, training: str) -> None:
    """Write or replace the document's `training`, in the newest version of the format."""
    path = shop.folder / "tower.dlm"
    if path.exists():
        head, _, body = path.read_text().partition("training: ")
        path.write_text(f"{head}training: {training}\n{body.partition(chr(10))[2]}")
    else:
        shop.document("tower", more=f"training: {training}\n")
        shop.edit("tower", "dlm_version: 15", "dlm_version: 16")


def test_dora_is_exported_merged_alone_and_is_the_model_that_was_trained(shop: Workshop) -> None:
    ready(shop, "{adapter: lora, learning_rate: 1e-2}")
    shop.doit("export:F16")
    folder = shop.store / "exports" / "F16"
    assert {"adapter.gguf", "base.F16.gguf"} <= {path.name for path in folder.iterdir()}
    ready(shop, "{adapter: dora, learning_rate: 1e-2}")
    ran = shop.doit("export:F16")
    assert "without adapter.gguf: DoRA sets the length of rows" in ran.out
    small = {"Modelfile", "README.md", "llama-server.sh", "export_manifest.json"}
    assert {path.name for path in folder.iterdir()} == {"model.F16.gguf", *small}
    assert "--lora" not in (folder / "llama-server.sh").read_text()
    card = (folder / "README.md").read_text()
    assert "tuned with DoRA" in card and "adapter.gguf" not in card
    assert "FROM ./model.F16.gguf" in (folder / "Modelfile").read_text()
    shop.doit("hub:tower:F16")
    assert "tuned with DoRA" in (shop.store / "hub" / "F16" / "README.md").read_text()
    assert json.loads(adapter(shop).read_bytes())["use_dora"] is True
    held = load_file(adapter(shop, "adapter_model.safetensors"))
    assert sum(name.endswith("lora_magnitude_vector") for name in held) == 14
    assert agreement(shop, "parity.json") == agreement(shop, "smoke.F16.json") == 1.0
    gap = json.loads((shop.store / "cache" / "parity.json").read_bytes())["mean_logprob_gap"]
    assert gap < 0.01
    assert not list((shop.store / "cache").glob("*adapter.gguf.tmp"))
    assert shop.doit("export:F16").steps == []
    err = shop.dlm("serve", "tower", "--quant", "F16", "--base-and-adapter", code=2).err
    assert "tower has no adapter beside its model: DoRA" in err
    ready(shop, "{adapter: lora, learning_rate: 1e-2}")
    assert "train:tower" in shop.doit("export:F16").restored
    assert (folder / "adapter.gguf").exists()


def test_preferences_train_a_dora_adapter_further(shop: Workshop) -> None:
    ready(shop, "{adapter: dora}")
    path = shop.folder / "tower.dlm"
    path.write_text(path.read_text() + "\n::preference::\n### Prompt\nWho?\n### Chosen\nYou.\n### Rejected\nMe.\n")
    assert "prefer:tower" in shop.doit("export:F16").steps
    assert agreement(shop, "parity.json") == 1.0


def test_a_dora_adapter_is_packed_and_comes_back(shop: Workshop, tmp_path: Path) -> None:
    ready(shop, "{adapter: dora}")
    ran = shop.doit("pack")
    other = Workshop(shop.folder, tmp_path / "other")
    (pack,) = [*shop.store.rglob("*.dlm.pack"), *shop.folder.glob("*.dlm.pack")]
    other.dlm("unpack", str(pack))
    assert "train:tower" in other.doit("export:F16").restored, ran.out


def test_rslora_is_scaled_by_the_root_of_the_rank_everywhere(shop: Workshop) -> None:
    ready(shop, "{rslora: true, lora_r: 16, lora_alpha: 4, learning_rate: 1e-2}")
    shop.doit("export:F16")
    assert json.loads(adapter(shop).read_bytes())["use_rslora"] is True
    assert agreement(shop, "parity.json") == agreement(shop, "smoke.F16.json") == 1.0
    header = read_header(shop.store / "exports" / "F16" / "adapter.gguf")
    assert header.metadata["adapter.lora.alpha"] == 4.0  # so llama.cpp scales by 4 / 16
    held = load_file(adapter(shop, "adapter_model.safetensors"))
    key = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
    info = header.tensors["blk.0.ffn_up.weight.lora_b"]
    raw = (shop.store / "exports" / "F16" / "adapter.gguf").read_bytes()[info.offset : info.offset + info.nbytes]
    written = np.frombuffer(raw, "<f4").reshape(held[key].shape)
    np.testing.assert_allclose(written, held[key] * 4, rtol=1e-6)  # 4 / sqrt(16) is four times that
    pack = shop.doit("pack")
    assert pack.code == 0


def test_rslora_belongs_to_version_16(shop: Workshop) -> None:
    shop.document("tower", more="training: {rslora: true}\n")
    err = shop.doit("check", code=1).err
    assert "tower.dlm:5:12: training.rslora in version 15: version 16 has it first" in err


bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="pip install 'dlmbuild[qlora]'")


@bitsandbytes
def test_qlora_with_an_optimizer_in_8_bits_trains_on_a_cpu_and_is_exported_on_the_untouched_base(
    shop: Workshop, tmp_path: Path
) -> None:
    ready(shop, "{adapter: qlora, optimizer: adamw_bnb_8bit, learning_rate: 1e-2}")
    ran = shop.doit("export:F16")
    assert "exports join it with the weights as they are, never with rounded ones" in ran.out
    assert agreement(shop, "parity.json") == agreement(shop, "smoke.F16.json") == 1.0
    assert "bitsandbytes" in json.loads(adapter(shop, "pinned_versions.json").read_bytes())
    weights = adapter(shop, "adapter_model.safetensors").read_bytes()
    again = Workshop(shop.folder, tmp_path / "again")
    again.doit("train")
    assert adapter(again, "adapter_model.safetensors").read_bytes() == weights
    ready(shop, "{adapter: lora, optimizer: adamw_torch, learning_rate: 1e-2}")
    shop.doit("train")
    assert adapter(shop, "adapter_model.safetensors").read_bytes() != weights  # the base was really rounded


@pytest.mark.parametrize(
    ("key", "value", "do"),
    [
        ("optimizer", "paged_adamw_8bit", "write optimizer: adamw_bnb_8bit"),
        ("optimizer", "galore_adamw", "write adamw_torch, or adamw_bnb_8bit"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_before_anything_loads(shop: Workshop, key: str, value: str, do: str) -> None:
    ready(shop, f"{{{key}: {value}}}")
    ran = shop.doit("train", code=1)
    told = ran.out + ran.err
    assert f"tower.dlm:5:{14 + len(key)}: training.{key} is " in told and do in told and "Traceback" not in told
    assert not any(step.startswith(("train", "dataset")) for step in ran.steps)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
@pytest.mark.parametrize("asked", ["adapter: qlora", "optimizer: adamw_bnb_8bit"])
def test_what_is_not_installed_is_refused_before_anything_loads(shop: Workshop, asked: str) -> None:
    ready(shop, f"{{{asked}}}")
    ran = shop.doit("train", code=1)
    told = ran.out + ran.err
    assert f"tower.dlm:5:{14 + asked.index(':')}: training." in told
    assert "the package bitsandbytes is not installed" in told and "pip install 'dlmbuild[qlora]'" in told
    assert not any(step.startswith(("train", "dataset")) for step in ran.steps)
