#!/bin/sh
# Makes the environment that benchmarks/training.py compares with: PyTorch, which this project itself does not need.
# Usage: benchmarks/make_pytorch_env.sh [folder]      (default .venv-pytorch; any Python that PyTorch has wheels for)
# Where the registry offers a build for CPUs alone ("2.13.0+cpu"), pip prefers it; others bring CUDA's libraries along
# and run on a CPU as well.
set -eu
folder="${1:-.venv-pytorch}"
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet "torch==${TORCH:-2.13.0}" numpy
[ -f "$folder/.gitignore" ] || echo '*' > "$folder/.gitignore"
echo "now run: python -m benchmarks.training --pytorch_python=$folder/bin/python"
