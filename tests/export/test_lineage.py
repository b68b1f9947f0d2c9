"""What GGUF files say of where a model comes from, and what they are called: as the specification has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.base_models.reference import parse_reference
from dlmbuild.base_models.registry import load_registry
from dlmbuild.export.lineage import Name, counted, file_name, general, name_of, origin

ID = "01M7VYPTCM6V1HYTK4A3Q9RZ8B"
CONVENTION = (
    r"(?:(?P<Sidecar>mmproj|mtp)-)?(?P<BaseName>[A-Za-z0-9.\s]*(?:(?:-(?:(?:[A-Za-z\s][A-Za-z0-9.\s]*)|(?:[0-9.\s]*)))*))"
    r"-(?:(?P<SizeLabel>(?:\d+x)?(?:\d+\.)?\d+[A-Za-z](?:-[A-Za-z]+(\d+\.)?\d+[A-Za-z]+)?)(?:-(?P<FineTune>[A-Za-z0-9\s-]+))?)?"
    r"-(?:(?P<Version>v\d+(?:\.\d+)*))(?:-(?P<Encoding>(?!LoRA|vocab)[\w_]+))?(?:-(?P<Type>LoRA|vocab))?"
    r"(?:-(?P<Shard>\d{5}-of-\d{5}))?\.gguf"
)
"""The specification's expression, with the dot that Qwen2.5 and Phi-3.5 have in their names."""


def base(text: str, parameters: int = 0, **source: str) -> dict[str, Any]:
    """A base as `origin` tells it."""
    reference = parse_reference(text, Path("/project"))
    row = load_registry().get(text)
    facts = {
        "key": reference.key,
        "source": source,
        "revision": "r1",
        "license": {"spdx": row.spdx, "url": row.license} if row else None,
        "parameters": parameters or (row.parameters if row else 0),
        "architecture": "LlamaForCausalLM",
    }
    return origin(facts, reference)


def of_hub(key: str) -> dict[str, Any]:
    return base(key, kind="hub", id=load_registry()[key].id, revision="c0ffee")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("smollm2-135m", Name("SmolLM2", "135M", "Instruct", "")),
        ("qwen2.5-coder-1.5b", Name("Qwen2.5-Coder", "1.5B", "Instruct", "")),
        ("gemma-2-2b-it", Name("gemma-2", "2B", "it", "")),
        ("olmo-2-7b-instruct", Name("OLMo-2-1124", "7B", "Instruct", "")),
        ("phi-3.5-mini", Name("Phi-3.5-mini-instruct", "3.8B", "", "")),
        ("mixtral-8x7b-instruct", Name("Mixtral", "8x7B", "Instruct", "v0.1")),
    ],
)
def test_the_parts_of_a_name(key: str, name: Name) -> None:
    assert name_of(of_hub(key)) == name


def test_a_base_of_this_machine_is_called_by_its_architecture() -> None:
    assert name_of(base("file:./secret/folder", 134_515_008, kind="folder")) == Name("Llama", "135M", "", "")
    assert "secret" not in str(general(base("file:./secret/folder", 134_515_008, kind="folder"), ID))


@pytest.mark.parametrize(("count", "label"), [(70_000, "70K"), (1_500_000_000, "1.5B"), (46_700_000_000, "47B")])
def test_a_size_that_is_counted(count: int, label: str) -> None:
    assert counted(count) == label


@pytest.mark.parametrize("key", load_registry())
def test_every_base_of_the_registry_gives_names_by_the_convention(key: str) -> None:
    for encoding, kind in (("Q4_K_M", ""), ("F32", "LoRA")):
        found = re.fullmatch(CONVENTION, file_name(of_hub(key), ID, encoding, kind))
        assert found and found["SizeLabel"] == name_of(of_hub(key)).size and found["FineTune"].endswith(ID)
        assert (found["Version"], found["Encoding"], found["Type"] or "") == ("v1.0", encoding, kind)


def test_a_named_adapter_is_a_part_of_the_name() -> None:
    for adapter, said in (("tone", "tone"), ("tone_2", "tone-2")):
        found = re.fullmatch(CONVENTION, file_name(of_hub("smollm2-135m"), ID, "F32", "LoRA", adapter))
        assert found and found["FineTune"] == f"Instruct-{ID}-{said}"


def test_what_a_document_made_names_its_base() -> None:
    assert general(of_hub("smollm2-360m"), ID) == {
        "general.basename": "SmolLM2",
        "general.size_label": "360M",
        "general.finetune": f"Instruct-{ID}",
        "general.version": "v1.0",
        "general.license": "Apache-2.0",
        "general.license.link": "https://huggingface.co/HuggingFaceTB/SmolLM2-360M-Instruct",
        "general.base_model.count": 1,
        "general.base_model.0.name": "HuggingFaceTB/SmolLM2-360M-Instruct",
        "general.base_model.0.version": "r1",
        "general.base_model.0.organization": "HuggingFaceTB",
        "general.base_model.0.repo_url": "https://huggingface.co/HuggingFaceTB/SmolLM2-360M-Instruct",
    }


def test_a_copy_with_rounded_weights_is_not_called_the_hubs_model() -> None:
    packed = base("smollm2-135m", kind="package")
    assert packed["hub"] == {
        "id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": load_registry()["smollm2-135m"].revision,
        "rounded": True,
    }
    keys = general(packed)
    assert keys["general.source.repo_url"].endswith("SmolLM2-135M-Instruct") and "general.repo_url" not in keys  # type: ignore[union-attr]
    assert general(packed, ID)["general.base_model.0.name"] == "smollm2-135m"
    assert "general.repo_url" in general(of_hub("smollm2-360m"))


def test_a_model_of_the_hub_that_no_row_knows_has_no_licence() -> None:
    keys = general(base("hf:org/tiny-1B@main", 10**9 + 1, kind="hub", id="org/tiny-1B", revision="c0ffee"), ID)
    assert keys["general.size_label"] == "1B" and not any("license" in key for key in keys)
