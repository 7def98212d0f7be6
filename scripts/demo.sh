#!/usr/bin/env bash
# The whole product once, on a real engine and a real model: up, known answer, chat, bench, report, stop.
# Run it with `make demo`. OVERSPAN names the command; everything it starts is stopped, also when a step fails.
set -euo pipefail

OVERSPAN=${OVERSPAN:-overspan}
NAME=demo
STARTED=no

step() {
    printf '\n\033[1m$ overspan %s\033[0m\n' "$*"
    "$OVERSPAN" "$@"
}

finish() {
    code=$?
    if [ "$code" -ne 0 ] && [ "$STARTED" = yes ]; then
        printf '\nThe demo failed; the run that it started is being stopped.\n' >&2
        "$OVERSPAN" stop "$NAME" --grace 0 >&2 || true
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

step engine install cpu
step up smollm2-135m --name "$NAME" --set port=0
STARTED=yes
step chat "$NAME" --prompt "What is the capital of France?"
step bench "$NAME" --concurrency 1,4,16 --requests 16 --input-tokens 32 --output-tokens 16
step report "$NAME"
step stop "$NAME"
