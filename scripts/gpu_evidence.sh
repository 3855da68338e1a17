#!/usr/bin/env bash
# The figures of one accelerator, as JSON, in at most 8 minutes: scripts/gpu_evidence.sh [OUT.json]
# Needs torch with CUDA and hptransfer's own requirements; wheels in .whl/ are used where there is no network.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -d .whl ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH=/tmp/site
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 MPLBACKEND=agg
timeout 480 python3 scripts/gpu_evidence.py --out "${1:-benchmarks/gpu.json}" "${@:2}"
