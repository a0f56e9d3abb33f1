#!/usr/bin/env bash
# Runs the Airflow DAG and the Dagster job once on a demo lake. Each scheduler is installed into a temporary environment
# of its own, which takes a minute and 1 GB of disk. Usage: bash infra/orchestrators/check.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export FACELAKE="${FACELAKE:-$here/../../.venv/bin/facelake}" FACELAKE_CONFIG="$work/night.yaml"

echo "installing Airflow and Dagster"
python3 -m venv "$work/airflow" && "$work/airflow/bin/pip" install -q apache-airflow==3.3.2
python3 -m venv "$work/dagster" && "$work/dagster/bin/pip" install -q dagster==1.13.29
"$FACELAKE" demo --lake "$work/lake" --quiet
printf 'lake: %s\ncorpus: %s\n' "$work/lake" "$work/lake/corpus" > "$FACELAKE_CONFIG"

echo "running the Dagster job"
mkdir "$work/home"
DAGSTER_HOME="$work/home" "$work/dagster/bin/dagster" job execute \
  -f "$here/dagster_assets.py" -j facelake_nightly > "$work/dagster.log" 2>&1 || { tail -40 "$work/dagster.log"; exit 1; }
stages=$(grep -c ASSET_MATERIALIZATION "$work/dagster.log")
[ "$stages" = 5 ] || { echo "Dagster ran $stages stages of 5"; exit 1; }

echo "running the Airflow DAG"
mkdir "$work/dags"
cp "$here/airflow_dag.py" "$here/stage_command.py" "$work/dags/"
export AIRFLOW_HOME="$work/home" AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__CORE__DAGS_FOLDER="$work/dags"
"$work/airflow/bin/airflow" db migrate > "$work/airflow.log" 2>&1
"$work/airflow/bin/airflow" dags test facelake_nightly 2026-11-27 >> "$work/airflow.log" 2>&1 ||
  { tail -40 "$work/airflow.log"; exit 1; }
stages=$(grep -c "Pushing xcom" "$work/airflow.log")
[ "$stages" = 5 ] || { echo "Airflow ran $stages stages of 5"; exit 1; }
echo "both ran all five stages"
