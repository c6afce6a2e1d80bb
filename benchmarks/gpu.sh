#!/usr/bin/env bash
# Tests and benchmarks of a GPU, in nine minutes at most, on a machine without network that has Python 3.12, CUDA, and
# what $PRESENT names.
#
#   benchmarks/gpu.sh --pack     here, with network: lays the wheels that are missing there into benchmarks/wheels
#   benchmarks/gpu.sh            there: installs from that folder alone, runs, writes benchmarks/results/gpu*
#   benchmarks/gpu.sh --quick    the smallest problems: does it all still work?
#
# DEVICE (cuda) and PYTHON (python3) may be set: DEVICE=cpu PYTHON=python3.12 benchmarks/gpu.sh --quick
set -u
PRESENT="torch torchvision lightning torchmetrics timm opencv-python-headless scipy matplotlib rich pytest numpy pillow pyyaml filelock huggingface_hub safetensors"
LEFT_OUT="wandb plotly"   # imported only by what asks for them
TESTS="hypothesis"        # what tests/conftest.py imports
LIMIT=${LIMIT:-540}       # seconds for all of it

cd "$(dirname "$0")/.." || exit 1
WHEELS=benchmarks/wheels
RESULTS=${RESULTS:-benchmarks/results}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
QUICK=""

# Name and version, here, of every package that AnchorLab needs and that is not there.
missing() {
    "$PYTHON_HERE" - "$PRESENT" "$LEFT_OUT" "$TESTS" <<'PY'
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

there, left_out, tests = ({canonicalize_name(name) for name in names.split()} for names in sys.argv[1:4])
environment = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "extra": ""}


def closure(names, known):
    for name in names:
        if name in known or name in left_out:
            continue
        try:
            version(name)
        except PackageNotFoundError:
            continue
        known.add(name)
        wanted = [Requirement(text) for text in requires(name) or []]
        closure([canonicalize_name(r.name) for r in wanted if not r.marker or r.marker.evaluate(environment)], known)
    return known


with open("pyproject.toml", "rb") as file:
    asked = tomllib.load(file)["project"]["dependencies"]
needed = closure([*(canonicalize_name(Requirement(text).name) for text in asked), *sorted(tests)], set())
for name in sorted(needed - closure(sorted(there), set())):
    print(f"{name}=={version(name)}")
PY
}

pack() {
    PYTHON_HERE=.venv/bin/python
    rm -rf "$WHEELS" && mkdir -p "$WHEELS" || exit 1
    for package in $(missing); do
        "$PYTHON_HERE" -m pip download -q --no-deps --dest "$WHEELS" --only-binary=:all: --python-version 3.12 \
            --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform any "$package" 2>/dev/null ||
            "$PYTHON_HERE" -m pip wheel -q --no-deps --wheel-dir "$WHEELS" "$package" || exit 1
    done
    ls "$WHEELS"
    du -sm "$WHEELS" | awk '{print $1 " MB in " $2; exit $1 > 50}' || { echo "more than 50 MB" >&2; exit 1; }
}

for argument in "$@"; do
    case $argument in
    --pack) pack; exit ;;
    --quick) QUICK=--quick ;;
    *) echo "benchmarks/gpu.sh takes --pack or --quick, not $argument" >&2; exit 2 ;;
    esac
done

STARTED=$(date +%s)
left() { echo $((LIMIT - $(date +%s) + STARTED)); }

SITE=$(mktemp -d) && trap 'rm -rf "$SITE"' EXIT
"$PYTHON" -m pip install -q --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl || exit 1
export PYTHONPATH="$PWD/src:$PWD:$SITE" ANCHORLAB_DEVICE=$DEVICE
mkdir -p "$RESULTS"
code=0
timeout "$(left)" "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_device.py 2>&1 | tee "$RESULTS/gpu-tests.txt"
[ "${PIPESTATUS[0]}" -eq 0 ] || code=1
timeout "$(left)" "$PYTHON" -m benchmarks.gpu $QUICK --results "$RESULTS" || code=1
echo "$(($(date +%s) - STARTED)) s; $(ls -d "$RESULTS"/gpu* | tr '\n' ' ')"
exit $code
