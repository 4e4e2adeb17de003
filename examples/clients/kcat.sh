#!/usr/bin/env bash
# One event and its reply, with nothing but kcat (Debian package kcat).
#
#   kcat.sh BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]
#   VIA=shop kcat.sh ...        calls it from namespace `shop`, which need not be the endpoint's
#
# Prints the reply, one line of JSON. Exit code 0: completed; 1: failed, or the event was not taken; 2: no reply in time.
# KAFKA_CLIENT_CONFIG names a client.properties with the login, where the cluster wants one (librdkafka's words).
set -euo pipefail

if [[ $# -lt 3 || ! $2 =~ ^/([a-z0-9-]+)/([a-z0-9-]+)$ || -z $3 ]]; then
    echo "usage: kcat.sh BOOTSTRAP /NAMESPACE/ENDPOINT TEXT [TIMEOUT_S]" >&2
    exit 64
fi
bootstrap=$1 text=$3 timeout_s=${4:-60}
events="gw.${BASH_REMATCH[1]}.${BASH_REMATCH[2]}.in.v1"
replies="gw.${BASH_REMATCH[1]}.${BASH_REMATCH[2]}.out.v1"
called=()
if [[ -n ${VIA:-} ]]; then
    events="gw.$VIA.call.v1" replies="gw.$VIA.call.out.v1" called=(-H "endpoint=$2")
fi
# kcat reads the file that this variable names by itself.
[[ -z ${KAFKA_CLIENT_CONFIG:-} ]] || export KCAT_CONFIG=$KAFKA_CLIENT_CONFIG
id=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

# A topic that does not exist would be created by some clusters, or waited for.
if ! known=$(kcat -L -b "$bootstrap" -J 2>&1); then
    # The last line says why, such as a login that was refused.
    tail -n 2 <<<"$known" >&2
    exit 1
fi
for topic in "$events" "$replies"; do
    if [[ $known != *"\"topic\":\"$topic\""* ]]; then
        echo "there is no topic $topic at $bootstrap, or no broker" >&2
        exit 1
    fi
done

# The id is random, so it cannot be in the text: as kcat's delimiter it keeps line breaks inside one event.
printf '%s' "$text" | kcat -P -b "$bootstrap" -t "$events" -D "$id" -X enable.idempotence=true \
    -H "correlation_id=$id" -H "reply_to=$replies" -H "content-type=text/plain" "${called[@]}"

# From a minute ago, for clocks differ; the correlation id tells our reply from others. %s is one line: JSON escapes.
since_ms=$((($(date +%s) - 60) * 1000))
coproc reader {
    exec timeout "$timeout_s" kcat -C -b "$bootstrap" -t "$replies" -o "s@$since_ms" -u -q \
        -X isolation.level=read_committed -f '%h\t%s\n'
}
reader_pid=$reader_PID
trap 'kill "$reader_pid" 2>/dev/null || true' EXIT
while IFS=$'\t' read -r headers reply <&"${reader[0]}"; do
    case ",$headers," in
        *",correlation_id=$id,"*) ;;
        *) continue ;;
    esac
    printf '%s\n' "$reply"
    case ",$headers," in
        *,guideway_status=completed,*) exit 0 ;;
        *) exit 1 ;;
    esac
done
echo "no reply within $timeout_s s" >&2
exit 2
