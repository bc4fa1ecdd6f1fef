#!/usr/bin/env bash
# Builds MMCV with compiled operators for the Python and the torch of this environment, and installs
# it in place of the one without: mmcv, or onedl-mmcv where OneDL's MMEngine is installed. That
# takes a quarter of an hour on 2 cores, once: ${XDG_CACHE_HOME:-~/.cache}/mmdiverse keeps the wheel.
# Where torch finds a GPU and nvcc (or with FORCE_CUDA=1), for CUDA too.
#   pip install -c requirements/constraints.txt -e '.[downstream]'
#   bash tools/downstream/install_mmcv.sh
set -euo pipefail

if pip show --quiet onedl-mmengine 2>/dev/null; then
    name=onedl-mmcv version=2.3.6
else
    name=mmcv version=2.1.0  # MMDetection 3.3.0 takes none from 2.2 on
fi
# Compiled code is good for one torch and one Python.
built_for=$(python -c 'import sys, torch
print(f"torch{torch.__version__}-cp{sys.version_info.major}{sys.version_info.minor}", end="")
print("-cuda" if torch.cuda.is_available() else "-cpu")')
wheels="${XDG_CACHE_HOME:-$HOME/.cache}/mmdiverse/$name-$version-$built_for"

if ! ls "$wheels"/*.whl >/dev/null 2>&1; then
    build=$(mktemp -d)
    trap 'rm -rf "$build"' EXIT
    pip download --no-cache-dir --no-deps --no-binary "$name" --no-build-isolation \
        --dest "$build" "$name==$version"
    mkdir "$build/source"
    tar xzf "$build"/*.tar.gz -C "$build/source" --strip-components 1
    # It asks the compiler for the C++ standard of an older torch; a newer one needs its own, which
    # torch adds where none is asked for.
    sed -i -E "s/\['-std=c\+\+1[47]'\]/[]/" "$build/source/setup.py"
    # Python may have been built with debug information, which nearly doubles the time.
    MMCV_WITH_OPS=1 CFLAGS="-g0 ${CFLAGS:-}" \
        pip wheel -v --no-deps --no-build-isolation --wheel-dir "$build/wheels" "$build/source" 2>&1 |
        grep --line-buffered -oE '^ *\[[0-9]+/[0-9]+\]|.*[Ee]rror.*'
    mkdir -p "$wheels"
    mv "$build"/wheels/*.whl "$wheels"
fi
pip uninstall --yes --quiet mmcv-lite
pip install --no-deps --force-reinstall "$wheels"/*.whl
python -c 'import mmcv.ops; print(f"MMCV {mmcv.__version__} has its operators")'
