#!/usr/bin/env bash
# Run the default tests with the lowest versions that pyproject.toml allows, in an environment of
# its own (.venv-minimum). Arguments go to pytest:
#
#     scripts/minimum.sh tests/test_space.py
#
# uv resolves the direct dependencies to their lowest versions. torch is the exception: it stays at
# the version of constraints.txt, as each of its versions is a download of gigabytes, so the lower
# bound of torch itself is not tested here. Tools for tests come in their present versions.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=.venv-minimum
python="$environment/bin/python"
torch=$(grep '^torch==' constraints.txt)

[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$environment"
"$python" -m pip install --quiet --upgrade pip uv
"$python" -m pip install --quiet -c constraints.txt "$torch"
"$python" -m uv pip compile pyproject.toml --quiet --no-header --no-annotate \
  --extra export --extra postgresql --resolution lowest-direct --override <(echo "$torch") |
  # torch is installed; what it would bring for a GPU is left out.
  grep -vE '^(torch|triton|nvidia-.*|cuda-.*)==' > "$environment/lowest.txt"
"$python" -m uv pip install --quiet --python "$python" --no-deps -r "$environment/lowest.txt"
# Only the direct dependencies are held: what tools need may take newer versions of the others.
"$python" -m uv pip compile pyproject.toml --quiet --no-header --no-annotate --no-deps \
  --extra export --extra postgresql --resolution lowest --override <(echo "$torch") \
  > "$environment/direct.txt"
"$python" -m uv pip install --quiet --python "$python" -c "$environment/direct.txt" \
  pytest pytest-xdist hypothesis import-linter hatchling editables pytorch-tabnet setuptools \
  "jsonargparse[signatures]" "datasets>=4" networkx openpyxl polars
"$python" -m uv pip install --quiet --python "$python" --no-deps --no-build-isolation -e .
"$python" -m pytest "$@"
