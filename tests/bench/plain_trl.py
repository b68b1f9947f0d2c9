"""What a short script with TRL's own defaults teaches the base of a built document in a given CPU time.

    python tests/bench/plain_trl.py CHECKPOINT STORE CPU_SECONDS OUT

Questions and answers go to SFTTrainer as messages, with LoraConfig() and SFTConfig() as they come. Only the number of
steps is chosen: so many as fit into the CPU time, imports and loading left out. Prose and preferences are left out, so
that all of the time goes into what is asked afterwards. To the file OUT goes what evaluation writes of a model; prints
JSON: steps, CPU seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import dlmbuild.eval.measure
from dlmbuild.build.reading import read_json
from dlmbuild.io.progress import silent


def main(checkpoint: str, store: Path, cpu_seconds: float, out: Path) -> None:
    document, report = read_json(store / "document.json"), read_json(store / "eval" / "report.json")
    torch.set_num_threads(read_json(store / "plan.json")["threads"])
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            _messages(asked, document["system_prompt"]) for asked in report["questions"] if asked["sort"] == "recall"
        ]

        def train(steps: int) -> tuple[SFTTrainer, float]:
            config = SFTConfig(folder, max_steps=steps, use_cpu=True, save_strategy="no", report_to="none")
            trainer = SFTTrainer(checkpoint, config, train_dataset=Dataset.from_list(rows), peft_config=LoraConfig())
            started = time.process_time()
            trainer.train()
            return trainer, time.process_time() - started

        # The first step is slower than all that follow, so two more tell what a step takes.
        first, three = (train(steps)[1] for steps in (1, 3))
        steps = max(1 + int((cpu_seconds - first) / ((three - first) / 2)), 1)
        trainer, spent = train(steps)
        trainer.save_model(folder)
        dlmbuild.eval.measure.measure_model(
            base=Path(checkpoint),
            adapter=Path(folder),
            dataset=store / "dataset.json",
            general=Path(dlmbuild.eval.measure.__file__).with_name("general.json"),
            asked=[(asked["question"], asked["expected"]) for asked in report["questions"]],
            system_prompt=document["system_prompt"],
            out=out,
            progress=silent,
        )
    print("\n" + json.dumps({"steps": steps, "cpu_s": round(spent, 1)}))


def _messages(asked: dict[str, Any], system_prompt: str | None) -> dict[str, Any]:
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return {
        "prompt": [*system, {"role": "user", "content": asked["question"]}],
        "completion": [{"role": "assistant", "content": asked["expected"]}],
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
