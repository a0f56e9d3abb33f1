#!/usr/bin/env bash
# Sets up .venv with pinned packages, and Debian packages as root. Idempotent; fast if nothing changed. Arguments: extras.
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
java_is_fit() {
  local java="${JAVA_HOME:+$JAVA_HOME/bin/java}"
  java="${java:-$(command -v java || true)}"
  [ -n "$java" ] && [ "$(java_major "$java")" -ge 17 ] 2>/dev/null
}

must_have_java() {
  java_is_fit && return
  echo "error: Spark needs Java 17 or newer. Next: 'sudo apt-get install default-jre-headless'," \
       "'brew install openjdk@17', or set JAVA_HOME to a JDK." >&2
  exit 2
}

# What pip does, on one line that is rewritten; elsewhere than on a terminal a line for every twenty packages.
show_progress() {
  local line count=0 width=$(( ${COLUMNS:-80} - 1 ))
  while IFS= read -r line; do
    case "$line" in
      Collecting\ *) count=$((count + 1)); line="package $count: ${line#Collecting }"; line="${line%% (from*}" ;;
      *Downloading\ *) line="package $count: downloads ${line##*Downloading }" ;;
      Installing\ collected*) line="copies $count packages into .venv" ;;
      *) continue ;;
    esac
    if [ -t 1 ]; then
      printf '\r\033[K%s' "${line:0:$width}"
    elif [[ "$line" = copies* ]] || { [[ "$line" != *downloads* ]] && [ $((count % 20)) = 0 ]; }; then
      echo "$line"
    fi
  done
  [ ! -t 1 ] || printf '\r\033[K'
}

packages=()  # of Debian, installed while pip works
java_is_fit || packages+=(default-jre-headless)
if [ "$extra" = test ]; then
  command -v chromium >/dev/null || packages+=(chromium)
  command -v g++ >/dev/null || packages+=(g++)
fi
installing=""
if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "installing ${packages[*]} (a Java runtime is for Spark)"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${packages[@]}" >/dev/null; } &
  installing=$!
else
  must_have_java  # before minutes of pip
fi

stamp=".venv/.facelake-setup-${extra:-base}"
want="$(cat pyproject.toml constraints.txt infra/setup.sh | sha256sum | cut -d' ' -f1)"
if [ -x .venv/bin/facelake ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
  say "set-up is up to date"
else
  .venv/bin/python -m pip --version >/dev/null 2>&1 || { say "making .venv"; "$python" -m venv --clear .venv; }
  say "installing facelake${extra:+ with what the tests need} (pinned by constraints.txt; a few minutes the first time)"
  # pip compiles the 20,000 modules on one core; some are templates that cannot be compiled
  .venv/bin/python -m pip install --disable-pip-version-check --no-compile --constraint constraints.txt \
    --editable ".${extra:+[$extra]}" | show_progress
  if [ "$extra" != test ]; then  # the tests import a fifth of the modules, each of which is compiled then
    say "compiling the modules"
    .venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
  fi
  echo "$want" >"$stamp"
fi
[ -z "$installing" ] || wait "$installing" || { echo "error: apt-get failed. Next: see above." >&2; exit 2; }
must_have_java
say "model pack"
.venv/bin/facelake models fetch
