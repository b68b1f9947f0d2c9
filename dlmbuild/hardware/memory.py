"""How much memory a training takes at its peak, from the shape of the model and the plan alone.

The peak of a training stands at the beginning of the backward pass: every block's activations are kept, and the loss
works on all logits. What a block keeps was counted tensor by tensor as autograd keeps them in transformers' decoders
under PEFT; Korthikanti et al. 2022 (arXiv 2205.05198) count a block of GPT-3 in the same way, with every input of a
linear layer kept. A frozen layer keeps none. Everything is in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from dlmbuild.hardware.plan import WHOLE, trained_layers

CUDA_CONTEXT = 600 << 20
"""What a process takes of a GPU before its first tensor: driver context, kernels, cuBLAS' workspaces."""
CPU_RUNTIME = 430 << 20
"""What a process holds that has imported torch, transformers, peft, datasets and trl: measured, 431 to 432 MiB."""
CPU_FIRST_STEP = 40 << 20
"""What the first training step loads and compiles on a CPU: measured, 36 to 42 MiB."""
CPU_IN_HALF = 28 << 20
"""What oneDNN compiles for the shapes of a step in half precision (jobs/environment.py): measured, 24 to 34 MiB."""
HEAP_SLACK = 0.9
"""What glibc's heap holds for nothing, as a share of the activations: 0.7 to 1.2 on eleven shapes, 0.9 in the mean.

torch asks for aligned memory, which a freed piece of the same size cannot give. With a heap that hands every tensor
back (MALLOC_MMAP_THRESHOLD_=65536, half as fast) the same trainings peak within 1 % of the sum of the tensors.
"""

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
_FP32 = 4
_QUANTISED = {
    # Bytes for each parameter. Dettmers et al. 2023 (QLoRA, arXiv 2305.14314), section 3: 4 bits, and a scale of 32
    # bits for each block of 64; double quantisation keeps the scales in 8 bits, with one of 32 bits for 256 of them.
    "nf4": 1 / 2 + 4 / 64,
    "nf4-dq": 1 / 2 + 1 / 64 + 4 / (64 * 256),
}
_SHARED = dict.fromkeys(("q_proj", "k_proj", "v_proj"), "attention") | {"up_proj": "gate_proj"}
"""Linear layers → a name for what goes into them, where several take the same."""
_EIGHT_BIT = ("adamw_bnb_8bit", "paged_adamw_8bit")


@dataclass(frozen=True, slots=True)
class Shape:
    """The measures of a decoder."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    """Of all experts that a token goes through."""
    vocab: int
    tied: bool
    gated: bool = True
    """Whether the feed-forward network multiplies two branches (SwiGLU) or has one (GPT-NeoX, Phi 1)."""
    norms: int = 2
    """In a block, each over all of `hidden`."""
    wide_norms: bool = True
    """Whether norms compute in fp32 and keep their input so: RMSNorm does in every family, LayerNorm does not."""
    fused: bool = False
    """Whether one layer makes queries, keys and values: who keeps the values then keeps what it made as a whole."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> Shape | None:
        """The shape that a config.json tells; None if it lacks a measure."""
        try:
            hidden, heads = config["hidden_size"], config["num_attention_heads"]
            kind = str(config["model_type"])
            inner = config.get("moe_intermediate_size") or config["intermediate_size"]  # of one expert
            return cls(
                layers=config["num_hidden_layers"],
                hidden=hidden,
                heads=heads,
                kv_heads=config.get("num_key_value_heads") or heads,
                head_dim=config.get("head_dim") or hidden // heads,
                feed_forward=inner * config.get("num_experts_per_tok", 1),
                vocab=config["vocab_size"],
                tied=config.get("tie_word_embeddings", kind.startswith("gemma")) is True,
                norms=4 if kind.startswith("gemma") and kind != "gemma" else 2,
                fused=kind == "phi3",
            )
        except (KeyError, TypeError, ZeroDivisionError):
            return None

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """How many numbers go into and come out of each linear layer, by the names of all families."""
        hidden, inner, query, key = self.hidden, self.feed_forward, self.query, self.key
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key),
            "v_proj": (hidden, key),
            "qkv_proj": (hidden, query + 2 * key),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "gate_up_proj": (hidden, 2 * inner),
            "down_proj": (inner, hidden),
            "lm_head": (hidden, self.vocab),
        }

    @property
    def in_blocks(self) -> int:
        """Parameters of all linear layers in blocks."""
        inner = (3 if self.gated else 2) * self.feed_forward
        return self.layers * self.hidden * (2 * self.query + 2 * self.key + inner)

    @property
    def parameters(self) -> int:
        """Of the whole model, but for biases and norms, which are less than a thousandth of it."""
        return self.in_blocks + (1 if self.tied else 2) * self.vocab * self.hidden


class Load(NamedTuple):
    """What a training computes at once: the backward pass keeps all of it."""

    sequences: int
    tokens: int
    """In each of them; several rows may share one."""
    learned: int
    """Tokens whose logits are computed, in all of them, row by row; 0 for every token, and all at once."""
    masks: bool
    """Whether it is said which tokens see which, as for rows of several lengths and those that share a sequence."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What of a plan the peak depends on."""

    tokens: int
    """In each row of a batch, filled up to the longest."""
    micro_batch: int
    targets: tuple[str, ...] = ()
    """The linear layers with an adapter, by the last part of their names."""
    rank: int = 0
    layers: int = 0
    """How many of the last layers are trained; 0 for all. What lies below is dropped once it has been computed."""
    method: str = "lora"
    """lora, dora, or full: every parameter is trained."""
    size: int = _FP32
    """Bytes of a weight and of what flows between layers."""
    adapter_size: int = _FP32
    """PEFT keeps the adapter in fp32 whatever the base is in."""
    casts: bool = True
    """Whether what goes into a layer is cast to that for the adapter, as PEFT does; train/lora.py casts the adapter."""
    autocast: bool = False
    dropout: bool = False
    device: str = "cpu"
    optimizer: str = "adamw_torch"
    checkpointing: bool = False
    quantisation: str = ""
    """nf4, nf4-dq, or none."""
    repeats_keys: bool = False
    """Whether keys and values are repeated for every head that shares them."""
    masks: bool = False
    """Whether attention keeps a mask: transformers gives it one where rows of a batch differ in length."""
    whole: bool = False
    """Whether attention keeps what each token sees of the others instead, for each head: train/attention.py."""
    learned: int = 0
    """Tokens of the batch whose logits are computed, each row's by themselves; 0 for all, and all at once."""
    inputs_kept: int = 0
    """How often the inputs of 4-bit layers are kept: bitsandbytes has not done that since 0.43."""

    @classmethod
    def of_plan(cls, plan: Mapping[str, Any], load: Load) -> Setup:
        """The setup of a training by `plan` (plan.json, or a phase of it) of what is computed at once at its peak."""
        whole = load.masks and load.tokens <= WHOLE and plan["attention"] == "whole"
        return cls(
            tokens=load.tokens,
            micro_batch=load.sequences,
            learned=load.learned,
            targets=tuple(name.rpartition(".")[2] for name in plan["target_modules"]),
            rank=plan["lora_r"],
            layers=trained_layers(plan["layers"]),
            method="dora" if plan["adapter"] == "dora" else "lora",
            size=_SIZES[plan["precision"]],
            casts=plan["adapter"] != "lora",
            autocast=plan["device"] == "cuda" and plan["precision"] != "fp32",
            dropout=plan["lora_dropout"] > 0,
            device=plan["device"],
            optimizer=plan["optimizer"],
            checkpointing=plan["gradient_checkpointing"],
            quantisation="nf4-dq" if plan["adapter"] == "qlora" else "",
            repeats_keys=load.masks and not whole,
            masks=load.masks and not whole,
            whole=whole,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """The peak in its parts, in bytes."""

    weights: int
    lora: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    allocator: int
    """What the heap holds for nothing; a GPU's allocator is asked for few sizes and wastes little."""
    overhead: int
    """What the process takes before it has loaded anything."""

    @property
    def total(self) -> int:
        return self.tensors + self.allocator + self.overhead

    @property
    def tensors(self) -> int:
        return self.weights + self.lora + self.gradients + self.optimizer + self.activations + self.logits

    def as_data(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def estimate(shape: Shape, setup: Setup, parameters: int = 0) -> Estimate:
    """The peak of a training. `parameters` is the base's real number of them, where it is known.

    weights      parameters · size; 4-bit ones: linear layers of blocks at 0.516 or 0.5625 bytes, the rest at `size`;
                 on a GPU without the frozen layers, unless the peak stands where these are still there; on a CPU the
                 base's file stays mapped as a whole
    lora         Σ over adapted layers of rank · (in + out) · 4, and as much at `size` where the adapter is cast
    gradients    as much again as is trained
    optimizer    Adam's two moments, each as much again; 2 bytes for each parameter in 8 bits
    activations  layers · tokens · `kept_by_a_block`; with checkpointing one block, and each block's input
    logits       12 · vocabulary · tokens: the loss is computed in fp32, and where its backward pass begins there are
                 the logarithms of the softmax, their gradient, and the gradient of the logits. Where only what is
                 learned is scored, the logits themselves and their gradient in their own precision, and those of
                 `scored_at_once` in fp32 (likelihood.py)
    """
    rows = setup.tokens * setup.micro_batch
    parameters = parameters or shape.parameters
    quantised = shape.in_blocks if setup.quantisation else 0
    held = _QUANTISED.get(setup.quantisation, 0) * quantised + setup.size * (parameters - quantised)
    adapter = _adapter(shape, setup)
    trained = setup.size * parameters if setup.method == "full" else setup.adapter_size * adapter
    size = setup.size if setup.method == "full" else setup.adapter_size
    block = rows * kept_by_a_block(shape, setup)
    in_fp32 = min(setup.learned, scored_at_once(setup.device)) if setup.learned else 3 * rows
    logits = (2 * setup.size * setup.learned + _FP32 * in_fp32) * shape.vocab
    layers = setup.layers or shape.layers
    kept = rows * setup.size * shape.hidden * layers + block if setup.checkpointing else block * layers
    # Small vocabularies: then the peak stands one block later, when the gradients of its widest tensors are at work.
    working = rows * setup.size * (4 * shape.feed_forward + 2 * shape.hidden)
    if setup.quantisation:  # a layer is made whole again while it computes
        working += setup.size * shape.hidden * shape.feed_forward
    cpu = setup.device != "cuda"
    heap = kept_by_a_block(shape, replace(setup, dropout=False)) / kept_by_a_block(shape, setup)
    found = Estimate(
        weights=round(held * (1 - shape.in_blocks * (1 - layers / shape.layers) / parameters)),
        lora=0 if setup.method == "full" else trained + (setup.size < _FP32 and not setup.casts) * adapter * setup.size,
        gradients=trained,
        optimizer=2 * trained // (size if setup.optimizer in _EIGHT_BIT else 1),
        activations=kept + max(0, working - logits),
        logits=logits,
        allocator=round(HEAP_SLACK * heap * kept) if cpu else 0,
        overhead=CPU_RUNTIME + CPU_FIRST_STEP + CPU_IN_HALF * (setup.size < _FP32) if cpu else CUDA_CONTEXT,
    )
    whole = round(held)
    return replace(found, weights=whole if cpu else max(found.weights, whole + found.weights - found.tensors))


def scored_at_once(device: str) -> int:
    """Tokens whose logits are worked on in fp32 at a time: on a CPU they stay near the processor, a GPU wants many."""
    return 16 if device == "cpu" else 1024


def kept_by_a_block(shape: Shape, setup: Setup) -> int:
    """Bytes that a block keeps of each token for the backward pass.

    norms      their input, in fp32, and its scale
    attention  queries, keys, values and output, and a logarithm for each head, as flash attention does. Where rows of
               a batch differ in length, keys and values are repeated for each head and a mask is kept; or, as a
               `whole`, what each head sees of each token.
    network    what the activation sees and gives, and the other branch; without one only what the activation sees
    adapter    what goes into each adapted layer, and what is between its two matrices. Layers share their input unless
               a cast to fp32, where there is one, autocast or dropout makes one for each.
    """
    size, inner = setup.size, shape.feed_forward
    kept = shape.norms * ((_FP32 if shape.wide_norms else size) * shape.hidden + _FP32)
    repeated = setup.repeats_keys and shape.key < shape.query
    kept += size * 2 * (shape.query + (shape.query if repeated else shape.key))
    kept += size * setup.tokens * shape.heads if setup.whole else _FP32 * shape.heads
    if shape.fused and not repeated and not setup.whole:
        kept += size * (shape.query + shape.key)
    if setup.masks:
        kept += size * setup.tokens
    kept += size * inner * (3 if shape.gated else 1)
    if setup.method == "full":
        return kept + size * (2 * shape.norms * shape.hidden + inner)
    if setup.quantisation:
        kept += setup.inputs_kept * size * (2 * shape.hidden + shape.query + inner)
    return kept + _kept_by_adapters(shape, setup)


def _kept_by_adapters(shape: Shape, setup: Setup) -> int:
    layers = {name: shape.linears[name] for name in setup.targets if name in shape.linears and name != "lm_head"}
    flows = (2 if setup.autocast else setup.adapter_size) if setup.casts else setup.size
    kept = flows * setup.rank * len(layers)
    inputs = {}
    for name, (wide, out) in layers.items():
        if setup.dropout:
            # A GPU keeps a byte that says what was dropped, a CPU the factor of each number.
            factor = setup.adapter_size if setup.casts else setup.size
            inputs[name] = wide * (flows + (1 if setup.device == "cuda" else factor))
        elif setup.casts and (setup.autocast or setup.size != setup.adapter_size):
            inputs[name] = wide * flows
        elif name != "o_proj" or setup.whole:  # what PyTorch's attention gives is kept in any case
            inputs[_SHARED.get(name, name)] = wide * setup.size
        if setup.method == "dora":  # the magnitude multiplies what the base and what the adapter gave: both are kept
            kept += out * (setup.size + setup.adapter_size)
    return kept + sum(inputs.values())


def _adapter(shape: Shape, setup: Setup) -> int:
    """Parameters of the adapter."""
    linears = shape.linears
    inside = sum(sum(linears[name]) for name in setup.targets if name in linears and name != "lm_head")
    head = sum(linears["lm_head"]) if "lm_head" in setup.targets else 0
    return setup.rank * ((setup.layers or shape.layers) * inside + head)
