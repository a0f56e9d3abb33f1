#!/usr/bin/env bash
# Sets up facelake and runs the demo with default settings: photos -> Ray -> Spark -> Delta gallery -> report.
# Arguments are passed to `facelake demo`, e.g.  bash infra/demo.sh --photos ~/Pictures/us
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh
.venv/bin/facelake demo "$@"
