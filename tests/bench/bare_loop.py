"""The yardstick for training speed: the same rows, base and LoRA in the shortest PyTorch loop that does the work.

    python tests/bench/bare_loop.py CHECKPOINT DATASET.json PLAN.json

Prints JSON: tokens, CPU seconds of the loop (imports and loading left out), tokens per CPU second, final loss.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from dlmbuild.data.shards import read_rows
from dlmbuild.train.determinism import EpochOrder


def main(checkpoint: str, dataset: str, plan_file: str) -> None:
    plan = json.loads(Path(plan_file).read_bytes())
    rows = list(read_rows(Path(dataset)))
    pad = json.loads(Path(dataset).read_bytes())["pad_id"]
    torch.set_num_threads(plan["threads"])
    torch.manual_seed(plan["seed"])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="sdpa")
    lora = LoraConfig(r=plan["lora_r"], lora_alpha=plan["lora_alpha"], target_modules=plan["target_modules"])
    model = get_peft_model(model, lora).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    size, epochs = plan["micro_batch_size"], plan["num_epochs"]
    steps = -(-len(rows) // size) * epochs
    optimizer = torch.optim.AdamW(weights, lr=plan["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps))
    order = EpochOrder(
        [1] * len(rows), {**plan, "micro_batch_size": 1}
    )  # any order: the loop is the shortest, not the cleverest
    tokens, loss = 0, torch.zeros(())
    started = time.process_time()
    for epoch in range(epochs):
        order.set_epoch(epoch)
        picked = list(order)
        for at in range(0, len(picked), size):
            batch = [rows[i] for i in picked[at : at + size]]
            longest = max(len(row.ids) for row in batch)
            ids = torch.tensor([list(row.ids) + [pad] * (longest - len(row.ids)) for row in batch])
            labels = torch.tensor(
                [[-100] * row.given + list(row.ids[row.given :]) + [-100] * (longest - len(row.ids)) for row in batch]
            )
            mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in batch])
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            tokens += sum(len(row.ids) for row in batch)
    spent = time.process_time() - started
    print(json.dumps({"tokens": tokens, "cpu_s": spent, "tokens_per_cpu_s": tokens / spent, "loss": loss.item()}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
