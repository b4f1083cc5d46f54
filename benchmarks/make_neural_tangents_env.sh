#!/bin/sh
# Makes the environment that benchmarks/ntk.py compares with: neural-tangents 0.6.5 works with JAX up to 0.4.23, hence not with this project's NumPy.
# Usage: benchmarks/make_neural_tangents_env.sh [folder]      (default .venv-neural-tangents; Python 3.10 or 3.11, or PYTHON=...)
set -eu
folder="${1:-.venv-neural-tangents}"
python="${PYTHON:-}"
if [ -z "$python" ]; then
    for candidate in python3.11 python3.10 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null; then
            python="$candidate"
            break
        fi
    done
fi
[ -n "$python" ] || { echo "needs Python 3.10 or 3.11; none was found: set PYTHON=/path/to/python3.11" >&2; exit 1; }
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet "jax==0.4.23" "jaxlib==0.4.23" "neural-tangents==0.6.5" "numpy<2" "scipy<1.13"
[ -f "$folder/.gitignore" ] || echo '*' > "$folder/.gitignore"
echo "now run: python -m benchmarks.ntk --neural_tangents_python=$folder/bin/python"
