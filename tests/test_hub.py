"""`doit hub:…`: a folder that can be uploaded as it is, with what hubs read, and nothing that is private."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.export.hub import contents, write_hub_files
from dlmbuild.io.digest import sha256_file
from dlmbuild.io.gguf_file import read_header
from tests.base_models.test_hub import COMMIT, put_into_cache
from tests.export.test_lineage import CONVENTION, of_hub
from tests.tiny import make_tiny_adapter, make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model
OLLAMA = ["params", "template"]
TASK = "hub:tower:Q4_K_M"
ID = "01M7VYPTCM6V1HYTK4A3Q9RZ8B"


def metadata(card: Path) -> dict[str, Any]:
    """What the hub's own library reads out of a card."""
    from huggingface_hub import ModelCard

    found: dict[str, Any] = ModelCard(card.read_text()).data.to_dict()
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_base_of_the_hub(workshop: Workshop, tmp_path: Path) -> None:
    cache = tmp_path / "hf" / "hub"
    make_tiny_base(tmp_path / "tiny")
    put_into_cache(cache, tmp_path / "tiny", "org/Tiny-70K-Chat", COMMIT)
    workshop.environment["HF_HOME"] = str(tmp_path / "hf")
    workshop.document("tower", base="hf:org/Tiny-70K-Chat@main", more="system_prompt: Answer like a keeper.\n")
    ran = workshop.doit("hub")
    folder = workshop.store / "hub" / "Q4_K_M"
    assert f"hf upload USER/NAME {folder} ." in ran.out and "the licence of the base is not known" in ran.out
    lora, whole = (name for name in names(folder) if name.endswith(".gguf"))
    assert lora == whole.replace("Q4_K_M", "F32-LoRA")
    for name in (whole, lora):
        found = re.fullmatch(CONVENTION, name)
        assert found and (found["BaseName"], found["SizeLabel"]) == ("Tiny", "70K")
        assert found["FineTune"] == read_header(folder / name).metadata["general.finetune"]
    small = [".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", *OLLAMA, "system"]
    assert names(folder) == sorted([*small, lora, whole])
    assert metadata(folder / "README.md") == {
        "base_model": "org/Tiny-70K-Chat",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "lora", "dlmbuild"],
    }
    config = json.loads((folder / "adapter_config.json").read_bytes())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/Tiny-70K-Chat", COMMIT)
    header = read_header(folder / lora).metadata
    assert header["general.type"] == "adapter" and header["general.base_model.0.version"] == COMMIT
    assert (folder / "system").read_text() == "Answer like a keeper."
    assert json.loads((folder / "params").read_bytes())["stop"] == ["<|im_end|>"]
    with_peft = (
        "from peft import AutoPeftModelForCausalLM as Auto; import sys; from safetensors import safe_open;"
        "print(type(Auto.from_pretrained(sys.argv[1])).__name__);"
        "print(safe_open(sys.argv[1] + '/adapter_model.safetensors', 'pt').metadata()['base_model_revision'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", with_peft, str(folder)], env=workshop.env(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["PeftModelForCausalLM", COMMIT]
    nothing_private(workshop, folder)


def nothing_private(workshop: Workshop, folder: Path) -> None:
    for path in folder.iterdir():
        held = path.read_bytes()
        for private in (str(workshop.folder), str(workshop.home), str(Path.home()), "tower"):
            assert private.encode() not in held.replace(b"Answer like a keeper", b""), (path, private)
            assert private not in path.name


def test_a_base_of_this_machine(built: Workshop) -> None:
    assert built.doit("why", TASK, code=1).out.startswith("run ")
    ran = built.doit(TASK)
    assert ran.steps == [TASK] and "the adapter is left out: it belongs to a base that is not on a hub" in ran.out
    folder = built.store / "hub" / "Q4_K_M"
    (whole,) = (name for name in names(folder) if name.endswith(".gguf"))
    assert names(folder) == sorted([".gitattributes", "README.md", *OLLAMA, whole])
    assert whole.startswith("Llama-") and re.fullmatch(CONVENTION, whole)
    assert metadata(folder / "README.md")["library_name"] == "gguf"
    assert sha256_file(folder / whole) == sha256_file(built.store / "exports" / "Q4_K_M" / "model.Q4_K_M.gguf")
    nothing_private(built, folder)
    assert built.doit("hub:tower").steps == built.doit("hub:Q4_K_M").steps == []


def test_what_else_lies_in_the_folder_stays(built: Workshop) -> None:
    built.doit(TASK)
    folder = built.store / "hub" / "Q4_K_M"
    (folder / "mine.txt").write_text("mine")
    (folder / "README.md").unlink()
    assert built.doit(TASK).restored == [TASK]
    assert "removing" in built.doit("clean", TASK).out
    assert names(folder) == ["mine.txt"] and not (folder.parent / "Q4_K_M.json").exists()
    (folder / "mine.txt").unlink()
    built.doit(TASK)
    assert built.doit("clean", "-n", "hub:tower").out.count("would remove") == 6
    built.doit("clean", "hub")
    assert not folder.parent.exists()
    built.dlm("gc", "--delete")
    assert built.doit(TASK).steps == [TASK]


def written(folder: Path, base: dict[str, Any], manifest: dict[str, Any], placed: str) -> tuple[Path, dict[str, str]]:
    """A folder for a hub beside the file `placed` of an export, and what is left out of it."""
    make_tiny_base(folder / "base", hidden=8, layers=1)
    make_tiny_adapter(folder / "adapter", folder / "base")
    out = folder / "out"
    out.mkdir()
    (out / placed).write_bytes(b"a GGUF")
    settings = {"dlm_id": ID, "quant": manifest["quant"], "base": base}
    given = {"manifest": manifest, "placed": {placed: "0" * 64}, "out": out}
    return out, write_hub_files(settings, adapter=folder / "adapter", **given)


def test_weights_that_not_everybody_may_pass_on_are_left_out(tmp_path: Path) -> None:
    base = {**of_hub("llama-3.2-1b"), "redistributable": False}
    lora = f"Llama-3.2-1B-Instruct-{ID}-v1.0-F32-LoRA.gguf"
    smoke = {"agreeing": 9, "positions": 10, "kl": {"mean": 0.01}}
    manifest: dict[str, Any] = {"dlm_id": ID, "quant": "Q8_0", "smoke": smoke}
    manifest |= {"files": {"model.Q8_0.gguf": {}, "adapter.gguf": {}}}
    manifest |= {"ollama": {"template": None, "parameters": {"stop": ["<end>"]}, "system": None}}
    assert contents(base, manifest) == {lora: "adapter.gguf"}
    out, left_out = written(tmp_path, base, manifest, lora)
    assert "LicenseRef-Llama-3.2" in left_out["the whole model"]
    assert names(out) == sorted(
        [".gitattributes", "Q8_0.json", "README.md", "adapter_config.json", "adapter_model.safetensors", lora]
    )
    assert metadata(out / "README.md") | {} == {
        "base_model": "meta-llama/Llama-3.2-1B-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": "llama-3.2",
        "license_link": "https://www.llama.com/llama3_2/license/",
        "tags": ["gguf", "lora", "dlmbuild"],
    }
    assert "Not here is the whole model" in (out / "README.md").read_text()
    assert set(json.loads((out / "Q8_0.json").read_bytes())["files"]) == set(names(out)) - {"Q8_0.json"}


@pytest.mark.parametrize(("trained", "said"), [
    ({"adapter": "tone"}, ", adapter tone"), ({"mix": "both_2", "weights": {"a": 1}}, ", mix both_2"),
])  # fmt: skip
def test_a_named_adapter_and_an_importance_matrix_are_told(tmp_path: Path, trained: dict[str, Any], said: str) -> None:
    base = {**of_hub("smollm2-135m"), "redistributable": True}
    manifest: dict[str, Any] = {
        "dlm_id": ID,
        "quant": "IQ2_XXS",
        "smoke": {"agreeing": 9, "positions": 10, "kl": {"mean": 0.01}},
        "trained": trained,
    }
    manifest |= {"files": {"model.IQ2_XXS.gguf": {}}, "imatrix": "rows of the document"}
    manifest |= {"ollama": {"template": None, "parameters": {"stop": ["<end>"]}, "system": None}}
    (whole,) = contents(base, manifest)
    name = said.rpartition(" ")[2].replace("_", "-")
    assert whole == f"SmolLM2-135M-Instruct-{ID}-{name}-v1.0-IQ2_XXS.gguf" and re.fullmatch(CONVENTION, whole)
    out, _ = written(tmp_path, base, manifest, whole)
    card = (out / "README.md").read_text()
    assert f"on the document `{ID}`{said}. Made by dlmbuild." in card and "rounded by an importance matrix" in card
