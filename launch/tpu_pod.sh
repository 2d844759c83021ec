#!/usr/bin/env bash
# One run on all workers of a TPU slice (or of several), by SSH from a machine that has gcloud; started again where that helps.
#
#   TPU=my-pod ZONE=us-east5-a FLAGS=v5p launch/tpu_pod.sh train --config=configs/lm/llama_8b.py --workdir=/shared/runs/a
#   PRINT=1 TPU=... ZONE=... launch/tpu_pod.sh train ...      shows what would run, runs nothing
#   STOP=1 TPU=... ZONE=... launch/tpu_pod.sh                 asks the run to save and end
#
# Once, to set up the workers (DIRECTORY below):
#   gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --batch-size=all --command='
#     git clone URL pretrainx && cd pretrainx && python3 -m venv .venv && .venv/bin/pip install -e ".[tpu]"'
#
# TPU        the slice's name; of a queued resource with several slices its name, with QUEUED=1
# ZONE       and PROJECT, where gcloud has no default
# FLAGS      a platform of launch/xla_flags.py, such as v5e,v5p,v6e; WITH names more of its sets
# DIRECTORY  of the checkout, seen from the home directory of each worker (default pretrainx); relative paths start there
# PRETRAINX  the command (default .venv/bin/pretrainx)
#
# The workdir must lie on a file system that all workers share. The run goes on where the connection is lost, or this script is
# killed: the same command again joins it. Its output stays in ~/.pretrainx-launch/log of each worker. SIGTERM and Ctrl-C are
# passed on: the run saves and ends.
set -uo pipefail

usage() {
    echo "usage: TPU=NAME ZONE=ZONE launch/tpu_pod.sh train --config=FILE --workdir=DIR" >&2
    exit 2
}
[ -n "${TPU:-}" ] || usage
[ "$#" -gt 0 ] || [ -n "${STOP:-}" ] || usage

# On one worker: starts the command unless this attempt did, or joins it where it still runs; follows it to its end.
follow() {
    local attempt=$1 directory=$2 place=$HOME/.pretrainx-launch words pid code newest=-1 path name workdir="" word before=""
    shift 2
    mkdir -p "$place" && cd "$HOME/$directory" || exit 2
    words=$(printf '%q ' "$@")
    if [ "$attempt" != "$(cat "$place/attempt" 2>/dev/null)" ]; then
        pid=$(cat "$place/pid" 2>/dev/null)
        if [ -z "$pid" ] || ! kill -0 "$pid" 2>/dev/null; then
            rm -f "$place/code" "$place/stopped"
            echo "$words" >"$place/command"
            : >"$place/log"
            # A session of its own, which outlives the connection. It notes the code that the command ends with.
            # shellcheck disable=SC2016
            setsid bash -c 'trap "" TERM
                (trap - TERM; exec "${@:2}")
                echo $? >"$1/code"' - "$place" "$@" >>"$place/log" 2>&1 </dev/null &
            echo $! >"$place/pid"
        elif [ "$words" != "$(cat "$place/command")" ]; then
            echo "launch: $HOSTNAME still runs another command, end it by STOP=1: $(cat "$place/command")"
            exit 2
        fi
        echo "$attempt" >"$place/attempt"
    fi
    pid=$(cat "$place/pid")
    tail --pid="$pid" --sleep-interval=0.2 -n +1 -f "$place/log" | sed -u "s/^/[$HOSTNAME] /"
    code=$(cat "$place/code" 2>/dev/null || echo 137)
    for word in "$@"; do
        case "$word" in --workdir=*) workdir=${word#*=} ;; esac
        [ "$before" != --workdir ] || workdir=$word
        before=$word
    done
    for path in "${workdir:-.}"/checkpoints/*; do
        name=${path##*/}
        case "$name" in *[!0-9]*) ;; *) [ "$name" -le "$newest" ] || newest=$name ;; esac
    done
    [ ! -e "$place/stopped" ] || echo "launch: $HOSTNAME was stopped"
    echo "launch: $HOSTNAME ended by $code, newest checkpoint $newest"
    exit "$code"
}

# On one worker: the whole session of the run gets SIGTERM; the command saves, what notes its code ignores it.
stop() {
    local place=$HOME/.pretrainx-launch
    [ ! -e "$place/pid" ] || { touch "$place/stopped" && kill -TERM -- "-$(cat "$place/pid")" 2>/dev/null; } || true
}

# All workers at once: by default those of a queued resource come in groups, and the first would wait for the second for ever.
ssh=(gcloud compute tpus)
if [ -n "${QUEUED:-}" ]; then
    ssh+=(queued-resources ssh "$TPU" --node=all)
else
    ssh+=(tpu-vm ssh "$TPU")
fi
ssh+=(${ZONE:+--zone="$ZONE"} ${PROJECT:+--project="$PROJECT"} --worker=all --batch-size=all)
command=()
[ -z "${FLAGS:-}" ] || command=(python3 launch/xla_flags.py --platform="$FLAGS" ${WITH:+--with="$WITH"} --)
command+=("${PRETRAINX:-.venv/bin/pretrainx}" "$@")
# A slice without GKE says nothing in the environment: JAX asks the metadata server.
[ "${1:-}" != train ] || case "$*" in *--config.distributed.kind=*) ;; *) command+=(--config.distributed.kind=tpu) ;; esac

if [ -n "${PRINT:-}" ]; then
    printf '%q ' "${ssh[@]}"
    printf -- '--command=...\non each worker, in %q: ' "${DIRECTORY:-pretrainx}"
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
if [ -n "${STOP:-}" ]; then
    exec "${ssh[@]}" --command="$(declare -f stop); stop"
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT
stopped=""
pass_on() {
    [ -z "$stopped" ] || return
    stopped=1
    echo "launch: the run is asked to save and end" >&2
    "${ssh[@]}" --command="$(declare -f stop); stop" >/dev/null
}
trap pass_on TERM INT

crashes=0 last=-1 number=0
while true; do
    number=$((number + 1))
    : >"$output"
    remote="$(declare -f follow); follow $$-$(date +%s)-$number $(printf '%q ' "${DIRECTORY:-pretrainx}" "${command[@]}")"
    # In a session of its own: Ctrl-C reaches this script alone.
    setsid "${ssh[@]}" --command="$remote" > >(tee "$output") &
    child=$!
    wait "$child"
    code=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting, not the run
        wait "$child"
        code=$?
    done
    sleep 0.2 # for the last lines

    # gcloud has the code of the first worker by number that failed; by time it is another: the abort of the others comes later.
    noted=$(sed -n 's/^launch: .* ended by \([1-9][0-9]*\), newest checkpoint.*/\1/p' "$output" | head -n 1)
    newest=$(sed -n 's/^launch: .* newest checkpoint \(-\{0,1\}[0-9]*\)$/\1/p' "$output" | sort -n | tail -n 1)
    [ "$code" -eq 0 ] || code=${noted:-$code}
    [ "$code" -ne 0 ] || exit 0
    if [ -n "$stopped" ] || grep -q '^launch: .* was stopped$' "$output"; then
        echo "launch: ended by $code; nothing is started again" >&2
        exit "$code"
    fi
    # As in slurm.sbatch: 75 is "preempted, saved"; 255 is trouble of SSH.
    case "$code" in
        75) why="" ;;
        7 | 134 | 137 | 139 | 143 | 255)
            [ "${newest:--1}" -le "$last" ] || crashes=0
            [ "${newest:--1}" -le "$last" ] || last=$newest
            crashes=$((crashes + 1))
            why=", crash $crashes since checkpoint $last (at most ${MAX_RESTARTS:-5} are started again)"
            if [ "$crashes" -gt "${MAX_RESTARTS:-5}" ]; then
                echo "launch: exit code $code$why: given up" >&2
                exit "$code"
            fi
            ;;
        *)
            echo "launch: exit code $code: that is not started again" >&2
            exit "$code"
            ;;
    esac
    echo "launch: exit code $code$why: all are started again" >&2
    sleep "${PAUSE:-10}"
done
