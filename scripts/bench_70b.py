"""Time and memory of a plan for a 70B Llama on the meta device, in a process of its own.

    python scripts/bench_70b.py [--out benchmarks/plan_70b.json] [--layers 80]      # about half a minute

Needs transformers. The target has no weights; the base is a real two-layer model of width 256.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CPU_SECONDS, GIGABYTES = 20.0, 2.0  # what the plan may take; wall time is the machine's load as well


def llama(width: int, layers: int, heads: int, kv_heads: int, inner: int) -> Any:
    """Llama 3's shape: head dimension 128, vocabulary 128256, untied head."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": 128256}
    heads_ = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads_, use_cache=False))


def measure(layers: int) -> dict[str, Any]:
    """Seconds and peak memory of this process: before, and with the plan."""
    import torch

    import hptransfer as hpt

    with torch.device("meta"):
        target = llama(8192, layers, 64, 8, 28672)
    base = llama(256, 2, 2, 1, 896)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    plan = hpt.make_plan(target, base=base, example_inputs={"input_ids": torch.zeros(1, 16, dtype=torch.int64)})
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    groups = {(row.lr_mult, row.wd_mult, row.eps_mult) for row in plan}
    return {
        "parameters": sum(p.numel() for p in target.parameters()),
        "tensors": len(plan),
        "groups": len(groups),
        "hooks": len(plan.hooks),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_gigabytes_before": round(before, 3),
        "peak_gigabytes": round(peak(), 3),
    }


def within_limits(result: dict[str, Any]) -> bool:
    """Whether a plan stayed within the CPU time and the memory that it may take."""
    return result["cpu_seconds"] <= CPU_SECONDS and result["peak_gigabytes"] <= GIGABYTES


def peak() -> float:
    """Peak resident memory of this process in GB, libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.layers)))
        return 0
    command = [sys.executable, __file__, "--child", "--layers", str(options.layers)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    result = json.loads(done.stdout.splitlines()[-1])
    ok = within_limits(result)
    report = {"command": f"scripts/bench_70b.py --layers {options.layers}", "machine": machine(), "ok": ok, **result}
    text = json.dumps(report, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0 if ok else 1


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch
    import transformers

    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {"platform": platform.platform(), "cpus": os.cpu_count(), **versions}


if __name__ == "__main__":
    sys.exit(main())
