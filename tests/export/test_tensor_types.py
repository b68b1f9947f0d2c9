"""The types that llama.cpp's llama_model_quantize gave to the tensors of real models, and of shapes like theirs."""

from __future__ import annotations

from collections import Counter

import pytest

from dlmbuild.base_models.decoder import Decoder
from dlmbuild.base_models.families import LLAMA
from dlmbuild.doc import names
from dlmbuild.errors import ExportError
from dlmbuild.export.tensor_types import QUANTISATIONS, ModelFacts, quantisation, tensor_type


def llama(layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocab: int, *, tied: bool) -> Decoder:
    return Decoder(
        family=LLAMA,
        layers=layers,
        hidden=hidden,
        feed_forward=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        explicit_head_dim=False,
        vocab=vocab,
        context=8192,
        rms_eps=1e-5,
        rope_theta=1e5,
        tied=tied,
    )


SMOLLM2_135M = llama(30, 576, 1536, 9, 3, 49152, tied=True)
LLAMA_31_8B = llama(32, 4096, 14336, 32, 8, 128256, tied=False)
LLAMA_32_1B = llama(16, 2048, 8192, 32, 8, 128256, tied=True)
LLAMA_2_70B = llama(80, 8192, 28672, 64, 8, 32000, tied=False)


def types(model: Decoder, quant: str) -> dict[str, str]:
    facts = ModelFacts(model.layers, model.heads, model.kv_heads, model.tied)
    return {
        tensor.gguf: tensor_type(tensor.gguf, tensor.shape, quant, facts, "F16" if len(tensor.shape) == 2 else "F32")[0]
        for tensor in model.weights()
    }


@pytest.mark.parametrize(
    ("quant", "counts"),
    [
        ("F16", {"F16": 211, "F32": 61}),
        ("Q8_0", {"Q8_0": 211, "F32": 61}),
        ("Q6_K", {"Q8_0": 181, "Q6_K": 30, "F32": 61}),
        ("Q5_K_M", {"Q5_1": 166, "Q5_K": 16, "Q6_K": 14, "Q8_0": 15, "F32": 61}),
        ("Q4_K_M", {"Q5_0": 166, "Q4_K": 16, "Q6_K": 14, "Q8_0": 15, "F32": 61}),
    ],
)
def test_smollm2_whose_rows_fit_no_k_quant(quant: str, counts: dict[str, int]) -> None:
    assert Counter(types(SMOLLM2_135M, quant).values()) == counts


def test_where_smollm2_gets_more_bits() -> None:
    chosen = types(SMOLLM2_135M, "Q4_K_M")
    more = [layer for layer in range(30) if chosen[f"blk.{layer}.ffn_down.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]
    assert [layer for layer in range(30) if chosen[f"blk.{layer}.attn_v.weight"] == "Q8_0"] == more
    assert chosen["token_embd.weight"] == "Q8_0"


def test_an_8b_with_its_own_output_layer() -> None:
    chosen = types(LLAMA_31_8B, "Q4_K_M")
    more = [layer for layer in range(32) if chosen[f"blk.{layer}.attn_v.weight"] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    assert [layer for layer in range(32) if chosen[f"blk.{layer}.ffn_down.weight"] == "Q6_K"] == more
    assert (chosen["token_embd.weight"], chosen["output.weight"]) == ("Q4_K", "Q6_K")
    assert Counter(chosen.values()) == {"Q4_K": 193, "Q6_K": 33, "F32": 65}
    assert Counter(types(LLAMA_31_8B, "Q5_K_M").values()) == {"Q5_K": 193, "Q6_K": 33, "F32": 65}
    assert Counter(types(LLAMA_31_8B, "Q6_K").values()) == {"Q6_K": 226, "F32": 65}
    assert Counter(types(LLAMA_31_8B, "Q8_0").values()) == {"Q8_0": 226, "F32": 65}


def test_every_quantisation_that_a_document_may_name_is_known() -> None:
    assert set(QUANTISATIONS) == set(names.QUANTISATIONS)


def test_values_that_many_heads_share_get_more_bits() -> None:
    """As llama.cpp's rules read for eight heads to two values; the whole files of test_quantize.py share one by two."""
    found = {quant: types(LLAMA_31_8B, quant) for quant in ("Q2_K", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS", "Q4_0")}
    values = {quant: {chosen[f"blk.{layer}.attn_v.weight"] for layer in range(32)} for quant, chosen in found.items()}
    assert values == {
        "Q2_K": {"Q4_K"},
        "IQ3_S": {"Q4_K"},
        "IQ3_M": {"Q4_K"},
        "IQ4_NL": {"Q5_K"},
        "IQ4_XS": {"Q5_K"},
        "Q4_0": {"Q4_0"},
    }
    assert [layer for layer in range(32) if found["IQ4_XS"][f"blk.{layer}.ffn_down.weight"] == "Q5_K"] == [0, 1, 2, 3]


def test_tied_embeddings_count_as_output_layer() -> None:
    assert types(LLAMA_32_1B, "Q4_K_M")["token_embd.weight"] == "Q6_K"
    assert types(LLAMA_32_1B, "Q8_0")["token_embd.weight"] == "Q8_0"


def test_the_70b_has_better_values() -> None:
    chosen = types(LLAMA_2_70B, "Q4_K_M")
    assert Counter(chosen[f"blk.{layer}.attn_v.weight"] for layer in range(80)) == {"Q6_K": 40, "Q5_K": 40}
    assert chosen["blk.10.attn_k.weight"] == "Q4_K"


def test_a_mixture_of_eight_experts() -> None:
    """As llama.cpp has it for Mixtral: what the experts share is small, and gets more bits."""
    facts = ModelFacts(32, 32, 8, False, experts=8)

    def chosen(name: str, shape: tuple[int, ...] = (4096, 4096), quant: str = "Q4_K_M") -> str:
        return tensor_type(name, shape, quant, facts)[0]

    assert [chosen(f"blk.7.attn_{name}.weight") for name in ("q", "k", "v", "output")] == [
        "Q4_K",
        "Q8_0",
        "Q8_0",
        "Q5_K",
    ]
    assert chosen("blk.7.attn_output.weight", quant="Q5_K_M") == "Q5_K"
    assert tensor_type("blk.7.ffn_gate_inp.weight", (8, 4096), "Q4_K_M", facts, "F32") == ("F32", False)
    assert [chosen(f"blk.{layer}.ffn_down_exps.weight", (8, 4096, 14336)) for layer in (0, 4)] == ["Q6_K", "Q4_K"]
    assert chosen("blk.0.ffn_up_exps.weight", (8, 14336, 4096)) == "Q4_K"


def test_fused_attention_counts_as_values() -> None:
    names = tuple(f"blk.{layer}.attn_qkv.weight" for layer in range(32))
    facts = ModelFacts(32, 32, 32, False, architecture="phi3", values=names)
    more = [layer for layer in range(32) if tensor_type(names[layer], (9216, 3072), "Q4_K_M", facts)[0] == "Q6_K"]
    assert more == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


def test_a_row_that_fits_no_block_stays_f16() -> None:
    facts = ModelFacts(2, 4, 2, True)
    assert tensor_type("blk.0.ffn_up.weight", (64, 40), "Q4_K_M", facts) == ("F16", True)
    assert tensor_type("blk.0.ffn_up.weight", (64, 40), "Q8_0", facts) == ("F16", True)
    assert tensor_type("blk.0.ffn_up.weight", (64, 96), "Q4_K_M", facts) == ("Q5_0", True)


def test_vectors_and_norms_keep_their_type() -> None:
    facts = ModelFacts(2, 4, 2, True)
    for quant in QUANTISATIONS:
        assert tensor_type("rope_freqs.weight", (32,), quant, facts, "F32") == ("F32", False)
        assert tensor_type("blk.0.attn_norm.weight", (2, 256), quant, facts, "F32") == ("F32", False)
        assert tensor_type("one_row.weight", (1, 256), quant, facts, "F32") == ("F32", False)


def test_an_unknown_quantisation_is_named() -> None:
    with pytest.raises(ExportError, match=r"'IQ5_K' is not known\n.*choose one of F16, BF16, Q8_0, Q6_K"):
        quantisation("IQ5_K")
