#!/usr/bin/env bash
# The main job at its default size, then wider and longer where there is an accelerator. Resumes where it was stopped.
# Arguments go to every check, as --workers 4. Results: hptransfer-out/.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
check() {
    echo "== $*"
    hptransfer check "$@" || status=$?
    [ "$status" -le 1 ] || exit "$status"
}
for recipe in mlp resnet gpt; do
    check "recipes/$recipe.py" "$@"
done
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    check recipes/mlp.py --widths 64,128,256,512,1024,2048,4096 --seeds 5 --out hptransfer-out/mlp-wide "$@"
    check recipes/gpt.py --widths 16,32,64,128,256,512,1024 --steps 1000 --seeds 3 --out hptransfer-out/gpt-wide "$@"
fi
exit "$status"
