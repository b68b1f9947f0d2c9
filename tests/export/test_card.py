"""The model card: metadata as hubs read it, and nothing that is not known."""

from __future__ import annotations

from typing import Any

import pytest
from ruamel.yaml import YAML

from dlmbuild.export.card import model_card

HUB = {"id": "org/small", "revision": "abc", "rounded": False}


def card(
    hub: dict[str, Any] | None,
    license: dict[str, str] | None,
    system: str | None = None,
    *,
    method: str = "LoRA",
    parts: bool = True,
) -> tuple[Any, str]:
    base = {"key": "small", "revision": "small-1.0", "license": license, "hub": hub}
    smoke = {"agreeing": 9, "positions": 10, "kl": {"mean": 0.01}}
    made = model_card("01HZX3Q5J8K9M2N4P6R8T0V2W4", "Q8_0", base, smoke, ["<end>"], system, method=method, parts=parts)
    _, head, text = made.split("---\n", 2)
    return YAML(typ="safe").load(head), text


def test_a_base_of_the_hub() -> None:
    metadata, text = card(HUB, {"spdx": "Apache-2.0", "url": "https://example.org"})
    assert metadata == {
        "base_model": "org/small",
        "base_model_relation": "finetune",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "tags": ["gguf", "lora", "dlmbuild"],
    }
    assert "org/small at revision `abc`" in text and "At 9 of 10 compared positions" in text and "`<end>`" in text


def test_a_whole_model_alone() -> None:
    metadata, text = card(HUB, None, method="DoRA", parts=False)
    assert metadata["tags"] == ["gguf", "dora", "dlmbuild"] and "tuned with DoRA" in text
    assert "adapter.gguf" not in text and "base.Q8_0.gguf" not in text and "`model.Q8_0.gguf`" in text


def test_a_base_of_this_machine_is_not_linked() -> None:
    metadata, _ = card(None, None)
    assert metadata.keys() == {"library_name", "pipeline_tag", "tags"}


def test_a_copy_with_rounded_weights_says_so() -> None:
    metadata, text = card({**HUB, "rounded": True}, None)
    assert metadata["base_model"] == "org/small"
    assert "org/small at revision `abc` (its copy small-1.0, whose weights are rounded), tuned with LoRA" in text


@pytest.mark.parametrize(
    ("license", "told"),
    [
        (
            {"spdx": "LicenseRef-Gemma", "url": "https://example.org/terms"},
            {"license": "other", "license_name": "gemma", "license_link": "https://example.org/terms"},
        ),
        ({"url": "https://example.org"}, {"license": "other", "license_link": "https://example.org"}),
    ],
)
def test_a_licence_that_hubs_have_no_word_for(license: dict[str, str], told: dict[str, str]) -> None:
    metadata, _ = card(HUB, license)
    assert {name: value for name, value in metadata.items() if name.startswith("license")} == told


def test_the_system_prompt_cannot_break_out() -> None:
    _, text = card(HUB, None, "Be brief.\n\n```\n# not a heading")
    assert "    Be brief.\n\n    ```\n    # not a heading\n" in text
