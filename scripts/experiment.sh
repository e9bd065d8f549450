#!/usr/bin/env bash
# An online experiment in a simulated world: its log, the models that the policies need, and all of
# them online. What is there already is kept.
#   WORLD     main (default) or a control, of worlds/
#   POLICIES  policies (default) or another configuration of experiments/
#   SEED      of training; 0 unless given
#   WORKERS   models that are trained at a time; 2 unless given
set -euo pipefail
cd "$(dirname "$0")/.."

world=${WORLD:-main}
policies=${POLICIES:-policies}
seed=${SEED:-0}
run=experiments/runs/$world
models=$run/models-$seed
piano=.venv/bin/piano

choose() { # variable, its value, folder that has a file for each possible value
  if [ ! -f "$3/$2.json" ]; then
    echo "error: $1=$2 is unknown; expected one of $(basename -s .json "$3"/*.json | xargs)." >&2
    exit 1
  fi
}
choose WORLD "$world" worlds
choose POLICIES "$policies" experiments

if [ ! -d "$run/logs" ]; then
  $piano logs simulated --config "worlds/$world.json" --output "$run/logs"
fi

train() { # model
  if [ -d "$models/$1/1" ]; then return; fi
  echo "training $1"
  if ! $piano train "$run/logs" --config "experiments/models/$1.json" --seed "$seed" \
    --output "$models/$1/1" > "$models/$1.log" 2>&1; then
    echo "error: training $1 failed; see $models/$1.log." >&2
    return 1
  fi
  echo "trained $1: $(grep --text '^score: ' "$models/$1.log")"
}
export -f train
export run models piano seed
mkdir -p "$models"
# One thread each: sums in another order are other numbers, and would be another model.
export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1
grep -oP '"model": "\K[^/"]+' "experiments/$policies.json" | sort -u |
  xargs -P "${WORKERS:-2}" -I{} bash -c 'train {}'

unset TF_NUM_INTRAOP_THREADS TF_NUM_INTEROP_THREADS OMP_NUM_THREADS
$piano abtest "experiments/$policies.json" --world "worlds/$world.json" --models "$models" \
  --output "$run/$policies-$seed"
