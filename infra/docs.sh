#!/usr/bin/env bash
# Builds the documentation site into build/site (or the given folder); every warning is an error.
#   bash infra/docs.sh && xdg-open build/site/index.html
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-build/site}"
mkdir -p "$out"
out="$(cd "$out" && pwd)"
.venv/bin/python -c 'import mkdocs, material, mkdocstrings' 2>/dev/null || {
  echo "error: mkdocs is not installed. Next: .venv/bin/pip install -c constraints.txt -e '.[docs]'" >&2
  exit 2
}
export NO_MKDOCS_2_WARNING=1   # Material is maintained until 2027
# not --quiet: mkdocs does not count the warnings that it does not show
if ! log="$(.venv/bin/python -m mkdocs build --strict --clean --config-file infra/site/mkdocs.yml --site-dir "$out" 2>&1)"; then
  echo "$log" >&2
  exit 1
fi
