"""The merged, quantised model against the way round: merge, save, convert, quantise; conversion against llama.cpp's.

    python -m tests.bench.export CHECKPOINT ADAPTER [QUANT]

CHECKPOINT is a base's folder, ADAPTER a version's. The way round is what is done without this program: PEFT merges in
full precision, transformers saves, llama.cpp's converter writes F16 and a quantiser makes the rest of it (ours, which
has its speed and its bytes). Every step is a process of its own, its start included.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from tests.bench.cost import Cost, cost

THREADS = 2
MERGE_AND_SAVE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""
OFFICIAL = """
import sys
from pathlib import Path
from dlmbuild.base_models import official
from dlmbuild.io.progress import silent
official.run("convert_hf_to_gguf.py", "--outtype", "f16", "--outfile", *sys.argv[1:], progress=silent)
"""
CONVERT = """
import sys
from pathlib import Path
from dlmbuild.export.conversion import convert_base
convert_base(Path(sys.argv[2]), Path(sys.argv[1]), name="base")
"""
QUANTIZE = f"""
import sys
from pathlib import Path
from dlmbuild.export.quantize import quantize_base
quantize_base(Path(sys.argv[1]), sys.argv[3], Path(sys.argv[2]), threads={THREADS})
"""
MERGE = f"""
import sys
from pathlib import Path
from dlmbuild.export.merge import merge_quantized
base, adapter, quantised, f16, quant, out = sys.argv[1:]
paths = [Path(base), Path(adapter), Path(quantised)]
merge_quantized(*paths, quant, Path(out), name="merged", threads={THREADS}, f16=Path(f16))
"""


def main(checkpoint: str, adapter: str, quant: str = "Q4_K_M") -> None:
    """Print what both ways take, and their ratios."""
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        f16, base = str(here / "base.F16.gguf"), str(here / f"base.{quant}.gguf")
        _run(OFFICIAL, str(here / "first.gguf"), checkpoint)  # the first start unpacks the scripts
        convert = _run(CONVERT, f16, checkpoint)
        official = _run(OFFICIAL, str(here / "official.gguf"), checkpoint)
        ratio = f"{official.cpu / convert.cpu:.1f} × as fast"
        print(f"conversion to F16: {_told(convert)}; llama.cpp's converter {_told(official)}: {ratio}", flush=True)
        quantise = _run(QUANTIZE, f16, base, quant)
        ours = _run(MERGE, checkpoint, adapter, base, f16, quant, str(here / "merged.gguf"))
        written = (here / "merged.gguf").stat().st_size
        saved = here / "saved"
        steps = [_run(MERGE_AND_SAVE, checkpoint, adapter, str(saved))]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (saved / name).write_bytes((Path(checkpoint) / name).read_bytes())
        steps.append(_run(OFFICIAL, str(here / "saved.gguf"), str(saved)))
        steps.append(_run(QUANTIZE, str(here / "saved.gguf"), str(here / "round.gguf"), quant))
        made = [*saved.iterdir(), here / "saved.gguf", here / "round.gguf"]
        way = Cost(sum(s.wall for s in steps), sum(s.cpu for s in steps), max(s.peak for s in steps), "")
        print(f"the bare quantiser, {quant}: {_told(quantise)}", flush=True)
        print(f"merged into {quant}: {_told(ours)}, {written / 1e6:.0f} MB written", flush=True)
        print(f"the way round: {_told(way)}, {sum(path.stat().st_size for path in made) / 1e6:.0f} MB written")
        print(f"ratios: time {ours.cpu / way.cpu:.2f}, peak memory {ours.peak / way.peak:.2f}")


def _run(script: str, *words: str) -> Cost:
    return cost([sys.executable, "-c", script, *words], Path.cwd(), os.environ)


def _told(spent: Cost) -> str:
    return f"{spent.wall:.1f} s, {spent.cpu:.1f} CPU s, {spent.peak:.0f} MB"


if __name__ == "__main__":
    main(*sys.argv[1:])
