"""The jobs by name: which function does each. Functions know nothing of jobs; they take paths and plain data.

Every function is called with the specification's inputs (as paths) and parameters by name, with `out`, the file or
folder that it writes, and with `progress`. What it returns is JSON data for the caller.
"""

from __future__ import annotations

JOBS = {
    "base": "dlmbuild.base_models.resolve:fetch_base",
    "gguf": "dlmbuild.export.conversion:convert_base",
    "quantize": "dlmbuild.export.quantize:quantize_base",
    "retention": "dlmbuild.train.retention:make_retention_set",
    "train": "dlmbuild.train.sft:train",
    "gate": "dlmbuild.train.gate:train_gate",
    "prefer": "dlmbuild.train.preference:prefer",
    "selftest": "dlmbuild.train.selftest:five_steps",
    "calibrate": "dlmbuild.train.calibrate:calibrate",
    "accelerator": "dlmbuild.hardware.accelerator:accelerator",
    "mlx": "dlmbuild.export.runtimes.mlx:write_adapter",
    "vllm": "dlmbuild.export.runtimes.vllm:write_adapter",
    "adapter_gguf": "dlmbuild.export.conversion:convert_adapter",
    "mix": "dlmbuild.export.mix:mix_job",
    "imatrix": "dlmbuild.export.imatrix:importance_matrix",
    "merge": "dlmbuild.export.merge:merge_quantized",
    "reference": "dlmbuild.export.reference:reference_predictions",
    "expected_answers": "dlmbuild.export.ollama.smoke:expected_answers",
    "compare": "dlmbuild.export.parity:compare",
    "measure": "dlmbuild.eval.measure:measure_model",
    "measure_export": "dlmbuild.eval.measure:measure_export",
    "prompt": "dlmbuild.inference.generate:answer_with_adapter",
    "route": "dlmbuild.inference.generate:choose_adapters",
    "serve": "dlmbuild.inference.server:serve",
    "prompt_export": "dlmbuild.inference.generate:answer_with_export",
}

_TORCH = ("torch", "transformers.modeling_utils", "transformers.models.auto", "peft")
_TRL = (*_TORCH, "datasets", "trl.trainer.sft_trainer")

LOADED: dict[str, tuple[str, ...]] = {
    "retention": _TORCH,
    "train": _TRL,
    "prefer": (*_TRL, "trl.trainer.dpo_trainer"),
    "gate": _TORCH,
    "reference": _TORCH,
    "imatrix": _TORCH,
    "measure": _TORCH,
    "route": _TORCH,
    "prompt": _TORCH,
}
"""Jobs of which one build often runs several, and what they take long to load: a build does it once (forkserver.py)."""
