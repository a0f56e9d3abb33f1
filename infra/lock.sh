#!/usr/bin/env bash
# Makes requirements.lock: the dependencies of facelake without extras, for every platform and Python, with hashes, in
# the versions of constraints.txt. uv is installed into an environment of its own.
#   bash infra/lock.sh && .venv/bin/pip install --require-hashes -r requirements.lock
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check uv
"$tools/bin/uv" pip compile pyproject.toml --constraint constraints.txt --generate-hashes --universal \
  --python-version 3.11 --no-header --no-annotate --no-emit-index-url --quiet --output-file requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages"
