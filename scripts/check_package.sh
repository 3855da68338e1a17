#!/usr/bin/env bash
# The wheel and the sdist are whole: built, installed away from the repository, and used from another folder.
# Uses the environment's own dependencies; needs `pip install build 'setuptools>=68'`.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1 MPLBACKEND=agg PIP_DISABLE_PIP_VERSION_CHECK=1
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$repository/hptransfer/_version.py")

# a copy, so that no build folder is left behind and nothing untracked gets in
mkdir "$work/source"
git -C "$repository" ls-files -z hptransfer README.md LICENSE pyproject.toml setup.cfg |
    (cd "$repository" && xargs -0 cp --parents -t "$work/source")
python -m build --no-isolation --outdir "$work/dist" "$work/source" > "$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

cp "$repository/recipes/mlp.py" "$work/recipe.py"
cat > "$work/runs.csv" <<'CSV'
width,lr,seed,loss
64,0.01,0,2.0
64,0.02,0,1.0
64,0.04,0,2.0
128,0.01,0,1.9
128,0.02,0,0.9
128,0.04,0,1.9
CSV

for kind in whl tar.gz; do
    pip install --quiet --quiet --no-deps --no-build-isolation --target "$work/$kind" "$work/dist/hptransfer-$version"*."$kind"
done
diff -r --exclude '*.dist-info' --exclude __pycache__ --exclude bin "$work/whl" "$work/tar.gz"    # the sdist makes the same

cd "$work"
export PYTHONPATH="$work/whl"
test "$(whl/bin/hptransfer --version)" = "hptransfer $version"
python - <<PYTHON
import hptransfer
assert hptransfer.__file__.startswith("$work/whl/"), hptransfer.__file__
PYTHON
whl/bin/hptransfer plan recipe.py --width 128 > plan.txt
grep -q "scheme mup" plan.txt
whl/bin/hptransfer judge runs.csv --out out > judged.txt || test $? -eq 3    # one seed: INCONCLUSIVE
grep -q "Every run" out/report.html
test -f whl/hptransfer/py.typed
echo "wheel and sdist of $version work away from the repository"
