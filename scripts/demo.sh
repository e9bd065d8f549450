#!/usr/bin/env bash
# The whole path: logs, the TFX pipeline, a pushed model, a server, one re-ranked list over gRPC.
#   DATASET  simulated (default) or lastfm
#   DATA     folder of the published files, for lastfm
#   LISTS    how many lists to simulate, 20000 unless set; of few no model may be good enough to serve
#   WORLD    JSON of a SimulationConfig, instead of LISTS
#   OUTPUT   folder of all that is written
set -euo pipefail
cd "$(dirname "$0")/.."

dataset=${DATASET:-simulated}
output=${OUTPUT:-demo}/$dataset
piano=.venv/bin/piano

step() { printf '\n== %s\n' "$*"; }

step "1/4  logs"
case $dataset in
  simulated)
    if [ -n "${WORLD:-}" ]; then size=(--config "$WORLD"); else size=(--lists "${LISTS:-20000}"); fi
    $piano logs simulated "${size[@]}" --output "$output/logs" --overwrite ;;
  lastfm)
    if [ -z "${DATA:-}" ]; then
      echo "error: DATASET=lastfm needs DATA=folder of the HetRec 2011 files." >&2
      exit 1
    fi
    $piano logs lastfm --input "$DATA" --output "$output/logs" --overwrite \
      --validation-from 2010-07-01 --test-from 2010-10-01 ;;
  *)
    echo "error: DATASET=$dataset is unknown; expected simulated or lastfm." >&2
    exit 1 ;;
esac

step "2/4  pipeline"
$piano pipeline --logs "$output/logs" --home "$output/pipeline"

if [ ! -d "$output/pipeline/pushed" ]; then
  echo "error: no model has been blessed yet, so there is none to serve; see the summary above. Of few lists too little may be learnt." >&2
  exit 1
fi
step "3/4  server"
port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
$piano serve --model-dir "$output/pipeline/pushed" --port "$port" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT

step "4/4  one list, before and after"
$piano rerank --address "127.0.0.1:$port" --logs "$output/logs" --timeout 120 &
asked=$!
# Whichever ends first: a server that dies must not leave the other waiting for it.
if ! wait -n "$server" "$asked"; then
  kill "$asked" 2>/dev/null || true
  echo "error: the list was not re-ranked; see above." >&2
  exit 1
fi
printf '\npushed model: %s\n' "$(ls -d "$output/pipeline/pushed/"* | tail -n 1)"
