from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlmbuild.base_models.license import acceptance_of, accepted_by_environment, require_acceptance
from dlmbuild.base_models.reference import parse_reference
from dlmbuild.base_models.registry import load_registry, row
from dlmbuild.errors import BaseModelError, LicenceError

ROWS = load_registry()
HERE = Path("/nowhere")


@pytest.mark.parametrize("key", ROWS)
def test_every_row_is_pinned_and_can_be_a_folder_name(key: str) -> None:
    known = ROWS[key]
    assert re.fullmatch(r"[0-9a-f]{40}", known.revision)
    assert (
        re.fullmatch(r"[a-z0-9.-]+", key) and not key.startswith(("hf-", "file-", "gguf-")) and not key.endswith("-hub")
    )
    assert known.architecture.endswith("ForCausalLM")
    assert known.parameters > 10**8 and known.context >= 4096
    assert known.license.startswith("https://") and known.spdx
    assert not (known.gated and known.redistributable)


@pytest.mark.parametrize("key", [key for key in ROWS if ROWS[key].draft])
def test_every_draft_is_a_smaller_base_of_the_same_family(key: str) -> None:
    known, draft = ROWS[key], ROWS[ROWS[key].draft]
    assert draft.parameters <= known.parameters / 2 and not draft.draft
    assert (draft.architecture, draft.id.partition("/")[0]) == (known.architecture, known.id.partition("/")[0])


@pytest.mark.parametrize("key", ROWS)
def test_every_recipe_is_one_that_can_be_trained(key: str) -> None:
    recipe = ROWS[key].recipe
    assert 0 < recipe.learning_rate < 0.1 and 0 <= recipe.lora_dropout < 1 and 0 <= recipe.warmup_ratio <= 0.5
    assert min(recipe.num_epochs, recipe.micro_batch_size, recipe.grad_accum, recipe.lora_r, recipe.lora_alpha) >= 1
    assert recipe.lr_scheduler in ("linear", "cosine", "constant")
    assert 64 <= recipe.sequence_len <= ROWS[key].context


def test_the_default_base_comes_from_a_package_and_has_measured_values() -> None:
    known = row("smollm2-135m")
    assert known.package is not None and len(known.package.wheel_sha256) == len(known.package.member_sha256) == 64
    assert known.recipe.measured


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("smollm-135m", "smollm2-135m"),
        ("Qwen3-4B", "qwen3-4b"),
        ("llama3.2-1b", "llama-3.2-1b"),
        ("zzz", "smollm2-135m"),
    ],
)
def test_an_unknown_key_is_answered_with_near_ones(wrong: str, nearest: str) -> None:
    with pytest.raises(BaseModelError, match="unknown base model") as raised:
        row(wrong)
    assert nearest in raised.value.do


def test_a_recipe_belongs_to_the_model_however_it_is_named() -> None:
    measured = row("smollm2-135m").recipe
    for text in ("smollm2-135m", "smollm2-135m@hub", "hf:huggingfacetb/SmolLM2-135M-Instruct@main"):
        assert parse_reference(text, HERE).recipe == measured
    for text in ("qwen3-4b", "hf:some/model@main", "file:./folder", "gguf:./file.gguf"):
        assert not parse_reference(text, HERE).recipe.measured


def test_a_gated_base_asks_for_acceptance_of_exactly_its_licence() -> None:
    gated = row("llama-3.2-1b")
    for accepted in ([], ["llama-3.2-1b=MIT"], ["llama-3.2-3b=LicenseRef-Llama-3.2"], ["llama-3.2-1b"]):
        with pytest.raises(LicenceError) as raised:
            require_acceptance(gated, accepted)
        assert gated.license in str(raised.value)
        assert f"DLM_ACCEPT_LICENSE={acceptance_of(gated)}" in raised.value.do
    require_acceptance(gated, ["llama-3.2-1b=LicenseRef-Llama-3.2"])
    require_acceptance(row("smollm2-135m"), [])


def test_acceptances_are_read_from_the_environment() -> None:
    gated = row("gemma-2-2b-it")
    accepted = accepted_by_environment({"DLM_ACCEPT_LICENSE": f" a=b, {acceptance_of(gated)} ,"})
    assert accepted == {"a=b", acceptance_of(gated)}
    require_acceptance(gated, accepted)
    assert accepted_by_environment({}) == frozenset()


def test_a_gated_model_is_gated_under_its_hub_name_too() -> None:
    assert parse_reference("hf:meta-llama/Llama-3.2-1B-Instruct@main", HERE).known == row("llama-3.2-1b")
