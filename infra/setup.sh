#!/usr/bin/env bash
# Sets up .venv with pinned packages and checks Java. Idempotent; fast if nothing changed. Arguments: extras.
#   bash infra/setup.sh          the dependencies of facelake
#   bash infra/setup.sh test     also those of the tests
set -euo pipefail
cd "$(dirname "$0")/.."
extra="${1:-}"
say() { printf '\033[1m== %s\033[0m\n' "$*"; }

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' || {
  echo "error: facelake needs Python 3.11, 3.12 or 3.13; found $("$python" --version 2>&1). Next: set PYTHON=/path/to/python3.11" >&2
  exit 2
}

java_major() { "$1" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }
java="${JAVA_HOME:+$JAVA_HOME/bin/java}"
java="${java:-$(command -v java || true)}"
java_is_fit() { [ -n "$java" ] && [ "$(java_major "$java")" -ge 17 ] 2>/dev/null; }
if ! java_is_fit; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing a Java 17+ runtime for Spark (Debian's default-jre-headless)"
    apt-get update -qq && apt-get install -y -qq default-jre-headless >/dev/null
    java="$(command -v java || true)"
  fi
  if ! java_is_fit; then
    echo "error: Spark needs Java 17 or newer. Next: 'sudo apt-get install default-jre-headless'," \
         "'brew install openjdk@17', or set JAVA_HOME to a JDK." >&2
    exit 2
  fi
fi

stamp=".venv/.facelake-setup-${extra:-base}"
want="$(cat pyproject.toml constraints.txt infra/setup.sh | sha256sum | cut -d' ' -f1)"
if [ -x .venv/bin/facelake ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
  say "set-up is up to date"
else
  .venv/bin/python -m pip --version >/dev/null 2>&1 || { say "making .venv"; "$python" -m venv --clear .venv; }
  say "installing facelake${extra:+ with what the tests need} (pinned by constraints.txt; a few minutes the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable ".${extra:+[$extra]}"
  echo "$want" >"$stamp"
fi
say "model pack"
.venv/bin/facelake models fetch
