#!/usr/bin/env bash
# A stranger's first hour, timed, from a fresh clone of what is committed, installed as `pip install .` does:
#   a script in nanoGPT's style in at most 5 changed lines; transformers' Trainer in at most 4; a CSV of one's own to a
#   verdict in one command; a ViT with Muon and AdamW to a verdict; a forecast for a big target in under 30 s.
# usage: bash scripts/journeys.sh [--quick]     (--quick: the same in their smallest form, as CI runs it)
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
quick=${1:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} MPLBACKEND=agg PYTHONSAFEPATH=
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
times=()

# timed NAME LIMIT COMMAND...: fails where the command fails, or took longer than LIMIT seconds (0: no limit). On a busy
# machine the clock tells nothing: over the limit is what took that long of a CPU, too.
timed() {
    local name=$1 limit=$2 began seconds before cpu
    shift 2
    echo "== $name"
    began=$(date +%s.%N) before=$(cpu_of_children)
    "$@"
    seconds=$(echo "$(date +%s.%N) $began" | awk '{printf "%.1f", $1 - $2}')
    cpu=$(echo "$(cpu_of_children) $before" | awk '{printf "%.1f", $1 - $2}')
    times+=("$(printf '%6.1f s, %6.1f s of a CPU  %s' "$seconds" "$cpu" "$name")")
    if [ "$limit" != 0 ] && awk "BEGIN {exit !($seconds > $limit && $cpu > $limit)}"; then
        echo "$name took $seconds s, $cpu s of a CPU; at most $limit are allowed" >&2
        exit 1
    fi
}

# Seconds of a CPU that this shell's finished children took, user and system (fields 16 and 17 of proc_pid_stat(5)).
cpu_of_children() {
    awk -v tick="$(getconf CLK_TCK)" '{sub(/^.*\) /, ""); print ($14 + $15) / tick}' "/proc/$$/stat"
}

# changed BEFORE AFTER MOST: fails where more than MOST lines of AFTER are new; both must run.
changed() {
    local lines
    lines=$( (diff "$1" "$2" || true) | grep -c "^> .*[^ ]")
    echo "$lines lines changed, at most $3"
    test "$lines" -le "$3"
    python "$1" 128
    python "$2" 128
}

# verdict COMMAND...: 0, 1 and 3 are verdicts; anything else is a failure.
verdict() {
    local status=0
    "$@" || status=$?
    [ "$status" -le 1 ] || [ "$status" = 3 ] || exit "$status"
}

cloned() {
    git -c safe.directory="$repository" clone -q "$repository" "$scratch/hptransfer"
    pip install -q --no-deps --target "$scratch/site" "$scratch/hptransfer"
}

installed() {  # beside the clone, in the folder that holds it, what is imported is the package and not the clone
    python - <<'PY'
import hptransfer, os
assert hptransfer.__file__ and "site" in hptransfer.__file__, hptransfer.__path__
print("hptransfer", hptransfer.__version__, "from", os.path.dirname(hptransfer.__file__))
PY
    python -m hptransfer --version
}

sane() {  # the forecast's rate lies where learning rates do, inside its own interval
    python - "$1" <<'PY'
import json, sys
rate = json.load(open(sys.argv[1]))["learning_rate"]
assert 1e-6 < rate["value"] < 1 and rate["low"] <= rate["value"] <= rate["high"] <= 100 * rate["low"], rate
print(f"rate {rate['value']:.3g} ({rate['low']:.3g} to {rate['high']:.3g})")
PY
}

own_sweep() {
    python "$journeys/own_sweep.py" runs.csv
    verdict hpt judge runs.csv | tee judged.txt
    grep -q '^PASS' judged.txt
}

own_model() {
    hpt init mine.py
    verdict hpt check mine.py --quick --out checked $small
}

forecast() {
    verdict hpt predict mine.py --quick --from checked --target width=8192,depth=8 --out forecast
    sane forecast/prediction.json
}

vit_with_muon() {
    hpt init vit.py --model vision
    verdict hpt check vit.py --quick $small_vit | tee vit.txt
    grep -qE '^(PASS|FAIL|INCONCLUSIVE)' vit.txt
}

hpt() { python -m hptransfer "$@"; }

small="" small_vit="" within=30
if [ "$quick" = --quick ]; then
    small="--widths 32,64 --steps 20 --seeds 2 --lrs 2^-9..2^-5 --extend 0 --no-coord"
    within=0  # CI's machine may be busy; the time is printed
    small_vit="--widths 16,32 --steps 4 --seeds 1 --lrs 2^-7..2^-5 --extend 0 --no-coord"
fi
timed "clone and install" 0 cloned
export PYTHONPATH="$scratch/site${PYTHONPATH:+:$PYTHONPATH}"
journeys="$scratch/hptransfer/scripts/journeys"
cd "$scratch"
timed "import beside the clone, version" 0 installed
mkdir work && cd work
timed "script in nanoGPT's style" 0 changed "$journeys/nanogpt_before.py" "$journeys/nanogpt_after.py" 5
if python -c 'import accelerate, transformers' 2>/dev/null; then
    timed "transformers' Trainer" 0 changed "$journeys/hf_trainer_before.py" "$journeys/hf_trainer_after.py" 4
else
    echo "== transformers' Trainer: left out, for transformers and accelerate are not installed: pip install '.[hf]'"
fi
timed "own CSV to a verdict" 0 own_sweep
timed "own model to a verdict" 0 own_model
timed "forecast for a big target" "$within" forecast
timed "ViT with Muon and AdamW to a verdict" 0 vit_with_muon
echo "== done"
printf '%s\n' "${times[@]}"
