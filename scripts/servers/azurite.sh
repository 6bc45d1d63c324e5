#!/bin/bash
# A real Azure Blob server on loopback, for tests: azurite.sh start DIR PORT, azurite.sh stop DIR.
# Account devstoreaccount1. Needs node and npm's azurite: `npm install azurite` in the folder that AZURITE
# names (default: .cache/azurite). It keeps nothing across a kill: not for tests of durability.
set -euo pipefail
folder=$2
if [ "$1" = stop ]; then kill -9 "$(cat "$folder.pid")" || true; exit; fi
port=$3
mkdir -p "$folder"
setsid node "${AZURITE:-.cache/azurite}/node_modules/azurite/dist/src/blob/main.js" \
  --blobHost 127.0.0.1 --blobPort "$port" -l "$folder" --silent --skipApiVersionCheck --disableTelemetry \
  </dev/null >"$folder.out" 2>&1 &
echo $! >"$folder.pid"
for _ in $(seq 300); do
  curl -so /dev/null "http://127.0.0.1:$port/" && exit 0
  sleep 0.1
done
cat "$folder.out" >&2
exit 1
