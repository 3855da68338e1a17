#!/usr/bin/env bash
# The main job in small, on every recipe: a few minutes on two cores. Arguments go to every check, as --device cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
status=0
for recipe in mlp resnet gpt; do
    echo "== $recipe"
    hptransfer check "recipes/$recipe.py" --quick "$@" || status=$?
    [ "$status" -le 1 ] || exit "$status"
done
exit "$status"
