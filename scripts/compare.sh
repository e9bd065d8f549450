#!/usr/bin/env bash
# Every model of comparisons/DATASET.json, trained and compared; an interrupted run goes on.
#   DATASET  simulated (default), lastfm or cpcd
#   DATA     folder of the published files, for lastfm and cpcd
set -euo pipefail
cd "$(dirname "$0")/.."

dataset=${DATASET:-simulated}
logs=comparisons/logs
piano=.venv/bin/piano

if [ ! -f "comparisons/$dataset.json" ]; then
  echo "error: DATASET=$dataset is unknown; expected simulated, lastfm or cpcd." >&2
  exit 1
fi
if [ "$dataset" != simulated ] && [ -z "${DATA:-}" ]; then
  echo "error: DATASET=$dataset needs DATA=folder of the published files." >&2
  exit 1
fi
make_log() { # name, then the adapter with its options; a log that is there is kept
  local log=$logs/$1
  shift
  if [ ! -d "$log" ]; then $piano logs "$@" --output "$log"; fi
}
case $dataset in
  simulated)
    make_log simulated simulated --lists 20000 ;;
  lastfm)
    make_log lastfm lastfm --input "$DATA" --validation-from 2010-07-01 --test-from 2010-10-01 ;;
  cpcd)
    for fold in 0 1 2 3 4; do
      make_log "cpcd-$fold" cpcd --input "$DATA" --folds 5 --fold "$fold"
    done ;;
esac
$piano compare "comparisons/$dataset.json"
