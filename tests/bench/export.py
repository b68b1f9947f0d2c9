"""The merged, quantised model against the way round: merge, save, convert, quantise; conversion against llama.cpp's.

    python -m tests.bench.export CHECKPOINT ADAPTER [QUANT [DATASET...]]

CHECKPOINT is a base's folder, ADAPTER a version's. The way round is what is done without this program: PEFT merges in
full precision, transformers saves, llama.cpp's converter writes F16 and a quantiser makes the rest of it (ours, which
has its speed and its bytes). Every step is a process of its own, its start included.

With the dataset.json files that the adapter was trained on, each job between it and the finished export is held to the
bare quantiser with the same importance matrix. A build loads torch once for all its jobs, which each of these does.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dlmbuild.io.digest import JSON, readable_json
from dlmbuild.jobs.environment import job_environment
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
QUANTIZE_WEIGHED = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from dlmbuild.base_models.dequantize import read_rows
from dlmbuild.errors import Where
from dlmbuild.export.imatrix import read_importance
from dlmbuild.export.kernels import pack_tensor
from dlmbuild.export.quantize import copy_tensor
from dlmbuild.export.tensor_types import tensor_types
from dlmbuild.io.gguf_file import Planned, read_header, write_gguf
f16, out, quant, matrix = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], read_importance(Path(sys.argv[4]))
header = read_header(f16)
types = tensor_types(header, quant, Where(str(f16)), weighed=True)
plan = [Planned(name, kind, header.tensors[name].shape) for name, (kind, _) in types.items()]
def data(planned):
    name, info = planned.name, header.tensors[planned.name]
    if planned.type == info.type:
        return copy_tensor(f16, info)
    rows = partial(read_rows, f16, info)
    return pack_tensor(name, planned.shape, planned.type, rows, pool, {THREADS}, importance=matrix.get(name))
with ThreadPoolExecutor({THREADS}) as pool:
    write_gguf(out, [*header.entries.values()], plan, data)
"""
JOB = "import os, sys; from dlmbuild.jobs.work import work; os._exit(work(sys.argv[1]))"
MERGE = f"""
import sys
from pathlib import Path
from dlmbuild.export.merge import merge_quantized
base, adapter, quantised, f16, quant, out = sys.argv[1:]
paths = [Path(base), Path(adapter), Path(quantised)]
merge_quantized(*paths, quant, Path(out), name="merged", threads={THREADS}, f16=Path(f16))
"""


def main(checkpoint: str, adapter: str, quant: str = "Q4_K_M", *datasets: str) -> None:
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
        print(f"ratios: time {ours.cpu / way.cpu:.2f}, peak memory {ours.peak / way.peak:.2f}", flush=True)
        if datasets:
            _to_the_export(Path(checkpoint), Path(adapter), quant, [Path(path) for path in datasets], here)


def _to_the_export(checkpoint: Path, adapter: Path, quant: str, datasets: Sequence[Path], here: Path) -> None:
    """Print what the jobs take that lie between an adapter and its export, and how often the bare quantiser's time.

    `here` holds the base in F16 and as `quant`.
    """
    trained = {"base": checkpoint, "adapter": adapter}
    rows = {f"dataset_{number}": path for number, path in enumerate(datasets)}
    f16, base, lora, merged = (here / f"{name}.gguf" for name in ("base.F16", f"base.{quant}", "adapter", "whole"))
    matrix, reference = {"imatrix": here / "imatrix.gguf"}, {"reference": here / "reference.json"}
    spent = {
        "the matrix": _job("imatrix", {**trained, "f16": f16, **rows}, matrix["imatrix"]),
        "the bare quantiser": _run(QUANTIZE_WEIGHED, str(f16), str(here / "bare.gguf"), quant, str(matrix["imatrix"])),
        "the adapter as GGUF": _job("adapter_gguf", {"adapter": adapter, "checkpoint": checkpoint}, lora),
        "the trained model's choices": _job("reference", {**trained, **rows}, here, questions=[], system_prompt=None),
        "base and adapter compared": _compared({"gguf": f16, "lora": lora, **reference}, here),
    }
    sources = {"checkpoint": checkpoint, "adapter": adapter, "base_quant": base, "f16": f16, **matrix}
    spent["merged"] = _job("merge", sources, merged, quant=quant, threads=THREADS, name="merged")
    spent["the merged file compared"] = _compared({"gguf": merged, **reference}, here, quant=quant)
    bare = spent.pop("the bare quantiser")
    print(f"with a matrix, {quant}: the bare quantiser: {_told(bare)}")
    all_of_it = [*spent.values()]
    whole = Cost(sum(s.wall for s in all_of_it), sum(s.cpu for s in all_of_it), max(s.peak for s in all_of_it), "")
    for name, its in {**spent, "all of it": whole}.items():
        print(f"  {name}: {_told(its)}: {its.wall / bare.wall:.2f} × its time, {its.cpu / bare.cpu:.2f} × its CPU time")


def _compared(inputs: dict[str, Path], here: Path, **more: JSON) -> Cost:
    return _job("compare", inputs, here, report="report.json", least_agreement=0.0, **more)


def _job(job: str, inputs: dict[str, Path], out: Path, /, **params: JSON) -> Cost:
    """A job as a build runs it, but for what it shares with others."""
    with tempfile.NamedTemporaryFile("wb", suffix=".json") as spec:
        named = {role: str(path) for role, path in inputs.items()}
        spec.write(readable_json({"job": job, "inputs": named, "params": params, "out": str(out)}))
        spec.flush()
        environment = job_environment(threads=THREADS, network=False)
        return cost([sys.executable, "-c", JOB, spec.name], Path.cwd(), environment)


def _run(script: str, *words: str) -> Cost:
    return cost([sys.executable, "-c", script, *words], Path.cwd(), os.environ)


def _told(spent: Cost) -> str:
    return f"{spent.wall:.1f} s, {spent.cpu:.1f} CPU s, {spent.peak:.0f} MB"


if __name__ == "__main__":
    main(*sys.argv[1:])
