#!/usr/bin/env bash
# Sets up and runs the main job on embedded defaults: photos -> Ray -> Spark -> Delta gallery -> report.
# Arguments go to `facelake demo`, e.g.  bash infra/demo.sh --photos ~/Pictures/us
set -euo pipefail
cd "$(dirname "$0")/.."
bash infra/setup.sh
.venv/bin/facelake demo "$@"
