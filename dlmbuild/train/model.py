"""The base as a trainer takes it, and the adapter on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import TrainingError
from dlmbuild.hardware.plan import first_trained
from dlmbuild.train.attention import register
from dlmbuild.train.determinism import rank
from dlmbuild.train.lora import computed_as_one

PLAIN = {"precision": "fp32", "attention": "sdpa", "adapter": "lora", "device": "cpu"}
"""The part of a plan that says how a base is loaded, for what has to be the same everywhere."""


def load_base(base: Path, plan: Mapping[str, Any], pad_id: int) -> Any:
    """The pretrained model of the folder `base`, in the plan's precision, ready for training."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan["precision"]]
    more = _in_four_bits(dtype, plan["device"]) if plan["adapter"] == "qlora" else {}
    attention = register() if plan["attention"] == "whole" else plan["attention"]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation=attention, local_files_only=True, trust_remote_code=False, **more
    )
    if more:
        from peft import prepare_model_for_kbit_training

        checkpointing = plan["gradient_checkpointing"]
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    model.config.pad_token_id = pad_id
    model.config.use_cache = False
    text = model.config.get_text_config()
    if hasattr(text, "router_aux_loss_coef"):
        # What keeps the experts of a mixture in balance is for those who train the router; nobody here does.
        text.router_aux_loss_coef, text.output_router_logits = 0.0, False
    return model


def _in_four_bits(dtype: Any, device: str) -> dict[str, Any]:
    """What transformers is told of a base in NF4 with scales that are quantised again, as QLoRA has it."""
    from transformers import BitsAndBytesConfig

    kind = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": kind, "device_map": {"": rank() if device == "cuda" else device}}


def lora_config(plan: Mapping[str, Any], layers: int) -> Any:
    """PEFT's configuration for the adapter that a plan asks for, on a base of so many layers."""
    from peft import LoraConfig

    first = first_trained(plan, layers)
    config = LoraConfig(
        layers_to_transform=list(range(first, layers)) if first else None,
        r=plan["lora_r"],
        lora_alpha=plan["lora_alpha"],
        lora_dropout=plan["lora_dropout"],
        use_dora=plan["adapter"] == "dora",
        use_rslora=plan["rslora"],
        target_modules=list(plan["target_modules"]),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return computed_as_one(config) if plan["adapter"] == "lora" else config


def with_adapter(model: Any, base: Path, adapter: Path, plan: Mapping[str, Any]) -> Any:
    """The base, loaded from the folder `base`, with the adapter of an earlier phase on it, to be trained further."""
    from peft import LoraConfig, PeftModel

    config = LoraConfig.from_pretrained(str(adapter))
    if plan["adapter"] == "lora":
        config = computed_as_one(config)
    adapted = PeftModel.from_pretrained(model, str(adapter), is_trainable=True, config=config)
    # The adapter names its base by identity, which PEFT would look up on a hub to see whether its vocabulary grew.
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    return adapted


def adapter_weights(model: Any) -> dict[str, Any]:
    """The adapter's tensors by name, as PEFT names them in a file, on the CPU."""
    from peft import get_peft_model_state_dict

    return {name: w.detach().to("cpu").contiguous() for name, w in sorted(get_peft_model_state_dict(model).items())}


def begin_with(model: Any, weights: Path) -> None:
    """Put the weights of an earlier adapter in the place of fresh ones. Raises TrainingError if they do not fit."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    held, here = load_file(weights), adapter_weights(model)
    if {name: w.shape for name, w in held.items()} != {name: w.shape for name, w in here.items()}:
        raise TrainingError(
            "the adapter that this training goes on from has other weights than this plan asks for",
            why="its record says that it fits",
            do="train from the start: doit full=true train",
        )
    set_peft_model_state_dict(model, held)


def no_processing() -> Any:
    """A tokenizer for a trainer that insists on one: rows are tokens already, so it is never asked to encode."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)), pad_token="<pad>")
