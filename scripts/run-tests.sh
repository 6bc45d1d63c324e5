#!/bin/bash
# Runs the tests in two halves side by side, since each leaves half of two cores idle: those that boot machines and
# fill stores, and all others. What the first half prints comes when both have ended.
# Usage: run-tests.sh [PYTEST-ARGUMENT ...]
set -uo pipefail
cd "$(dirname "$0")/.."

slow=(tests/imagestore tests/hypervisors tests/server)
no_tests=5  # pytest's exit status when nothing was selected
log=.cache/slow-tests.log
mkdir -p .cache
echo "Side by side: ${slow[*]} (tail -f $log), and the others:"

set -m  # a process group of its own, so that Ctrl-C reaches it as it should
.venv/bin/python -m pytest "${slow[@]}" "$@" > "$log" 2>&1 &
beside=$!
set +m
trap 'kill -INT -- -$beside 2> /dev/null' INT TERM

others=0
.venv/bin/python -m pytest tests --ignore=tests/acceptance "${slow[@]/#/--ignore=}" "$@" || others=$?
slowly=0
wait $beside || slowly=$?
printf '\n%s:\n' "${slow[*]}"
cat "$log"
[ $others != $no_tests ] || { others=$slowly; slowly=0; }
[ $slowly != $no_tests ] || slowly=0
exit $((others ? others : slowly))
