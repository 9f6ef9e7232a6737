#!/usr/bin/env bash
# The extension built with the address and undefined-behaviour sanitisers, and its tests under them. Needs gcc.
#   tests/sanitized.sh [arguments of pytest; else the tests of the extension]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ $# -gt 0 ] || set -- tests/test_replay*.py tests/test_prioritized.py tests/test_table.py tests/test_gae.py tests/test_stepping.py
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r fastrl fastrl_ext tests benches docs README.md LICENSE pyproject.toml setup.py "$copy"
cd "$copy"
find . -name "*.so" -delete
flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g -O1"
CFLAGS=$flags LDFLAGS=$flags "$python" setup.py --quiet build_ext --inplace
# Python itself is not built for leak checks; its allocator would hide the bounds of small objects.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc PYTHONPATH="$copy" \
  "$python" -m pytest -q --capture=sys -p no:cacheprovider "$@"
