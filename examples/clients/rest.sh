#!/usr/bin/env bash
# Call an endpoint over HTTP: rest.sh GATEWAY ADDRESS TEXT [SECONDS]; the key is in GUIDEWAY_KEY.
#
#   GUIDEWAY_KEY=$(guideway keys create shop) examples/clients/rest.sh http://127.0.0.1:8080 /public/fact-yes-no "Is the Earth round?"
#
# Prints the reply as one line of JSON. Exit code: 0 completed, 1 failed, 2 no reply in time, 64 wrong usage.
set -euo pipefail
[[ $# -ge 3 && $# -le 4 && $2 =~ ^/?[a-z0-9-]+/[a-z0-9-]+$ && ${4:-60} =~ ^[0-9]+$ ]] || { sed -n 2,6p "$0" >&2; exit 64; }
gateway=${1%/} address=/${2#/} text=$3 seconds=${4:-60}
id=$(cat /proc/sys/kernel/random/uuid)
body=$(mktemp)
trap 'rm -f "$body"' EXIT

# Sent again under one key, it is one request: curl may retry whatever went wrong on the way.
status=$(curl --silent --show-error --output "$body" --write-out '%{http_code}' \
    --retry 5 --retry-all-errors --max-time "$((seconds + 5))" \
    --header "Authorization: Bearer ${GUIDEWAY_KEY:?a key of guideway keys create}" \
    --header 'Content-Type: text/plain' --header "Idempotency-Key: $id" --header "Request-Timeout: $seconds" \
    --data-binary @- "$gateway$address" < <(printf %s "$text")) || { cat "$body" >&2; exit 2; }
cat "$body"
echo
case $status in
    200) ;;
    504) exit 2 ;;
    *) exit 1 ;;
esac
