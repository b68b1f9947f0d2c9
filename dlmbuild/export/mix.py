"""A weighted sum of LoRA adapters as one adapter: Σ wᵢ · scaleᵢ · Bᵢ · Aᵢ, exactly.

The factors are laid side by side: the rows of all A under each other, the columns of all B, each times its weight and
scale, beside each other. Their product is the sum, whatever the ranks and alphas; averaging A and B for themselves, as
PEFT's `linear` does, has terms of one adapter's B with another's A in it. The rank grows to the sum of ranks, and can
be cut down to what a singular value decomposition keeps (Eckart & Young 1936): the nearest of that rank, with its
error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.errors import ExportError, Where
from dlmbuild.export.adapter_gguf import CONFIG, RUN, WEIGHTS, base_of, read_factors
from dlmbuild.io.digest import readable_json, sha256_file
from dlmbuild.io.progress import Progress
from dlmbuild.io.safetensors_file import write_arrays

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def mix_job(
    *, weights: Mapping[str, float], rank: int | None, out: Path, progress: Progress, **adapters: Path
) -> dict[str, Any]:
    """`mix` of the adapters whose version folders are given as `of_<name>`, as a job."""
    progress("mixing the adapters")
    return mix({name: adapters[f"of_{name}"] for name in weights}, weights, out, rank=rank)


def mix(
    adapters: Mapping[str, Path], weights: Mapping[str, float], out: Path, *, rank: int | None = None
) -> dict[str, Any]:
    """Write the weighted sum of adapters (name → version folder) as the files of an adapter version into `out`.

    With `rank` no weight keeps more than that. Returns {"rank": the largest, "error": ‖sum − kept‖ / ‖sum‖ in the
    Frobenius norm over all weights, 0 where nothing is cut}. Raises ExportError for adapters of different bases, and
    for what is more than a plain LoRA.
    """
    import numpy as np

    base = _base(adapters)
    found = {name: read_factors(adapters[name], None) for name in sorted(weights)}
    tensors: dict[str, NDArray[np.float32]] = {}
    ranks: dict[str, int] = {}
    lost = whole = 0.0
    for changed in sorted({changed for factors in found.values() for changed in factors}):
        parts = [(weights[name], factors[changed]) for name, factors in found.items() if changed in factors]
        a = np.concatenate([np.asarray(part.a, np.float32) for _, part in parts])
        b = np.concatenate([np.float32(weight * part.scale) * part.b for weight, part in parts], axis=1)
        if rank is not None:
            a, b, cut, total = _nearest(a, b, rank)
            lost, whole = lost + cut, whole + total
        module = changed.removesuffix(".weight")
        ranks[module] = a.shape[0]
        tensors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
    told = {"rank": max(ranks.values()), "error": math.sqrt(lost / whole) if whole else 0.0}
    write_arrays(out / WEIGHTS, tensors)
    (out / CONFIG).write_bytes(readable_json(_config(ranks, base)))
    said = {"weights": dict(weights), "asked_rank": rank, **told}
    (out / RUN).write_bytes(readable_json({"base": base, "mix": said}))
    described = {"base": base, "files": {name: sha256_file(out / name) for name in (CONFIG, WEIGHTS)}}
    (out / "adapter.json").write_bytes(readable_json(described))
    return told


def _base(adapters: Mapping[str, Path]) -> dict[str, Any]:
    """The base of all of them."""
    found: dict[str, Any] = {}
    for name, adapter in sorted(adapters.items()):
        base = base_of(adapter)
        if found and base != found:
            raise ExportError(
                f"{name} was trained on another base than the others",
                where=Where(str(adapter / RUN)),
                why=f"{base.get('name')}, revision {base.get('revision')}: what they add is added to different weights",
                do="train all of them on one base: doit train",
            )
        found = base
    return found


def _nearest(
    a: NDArray[np.float32], b: NDArray[np.float32], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float, float]:
    """Factors of b @ a's nearest matrix of a rank; the squared norm of what they lack, and that of b @ a.

    The product itself is never formed: only that of the two small triangles.
    """
    import numpy as np

    left, small_b = np.linalg.qr(b.astype(np.float64))
    right, small_a = np.linalg.qr(a.astype(np.float64).T)
    u, values, vt = np.linalg.svd(small_b @ small_a.T)
    squares = values**2
    kept = values[:rank]
    roots = np.sqrt(kept)
    u, vt = u[:, : len(kept)] * roots, vt[: len(kept)] * roots[:, None]
    return (
        (vt @ right.T).astype(np.float32),
        (left @ u).astype(np.float32),
        float(squares[rank:].sum()),
        float(squares.sum()),
    )


def _config(ranks: Mapping[str, int], base: Mapping[str, Any]) -> dict[str, Any]:
    """PEFT's configuration under which every scale is 1: weights and scales are in the factors already."""
    usual = max(ranks.values())
    other = {module: rank for module, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.get("name"),
        "revision": base.get("revision"),
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
    }
