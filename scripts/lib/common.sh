# shellcheck shell=bash
# What every script here needs: where things are, how to speak, how to show that a long step is alive. Sourced.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BUILD=$ROOT/build
LOGS=$BUILD/logs

# Messages of other programs in English and ASCII, whatever the user's language: some of them are matched below.
export LC_ALL=C.UTF-8

# shellcheck disable=SC2034  # for the scripts that source this
if [ -t 1 ]; then
    BOLD=$'\033[1m' DIM=$'\033[2m' RED=$'\033[31m' GREEN=$'\033[32m' PLAIN=$'\033[0m'
else
    # shellcheck disable=SC2034
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }

# One line of explanation under what was said before.
note() { printf '  %s%s%s\n' "$DIM" "$*" "$PLAIN"; }

# What happened, why, what to do now: one argument a line; ends the script.
die() {
    printf '%sfailed:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    shift
    [ $# -eq 0 ] || printf '        %s\n' "$@" >&2
    exit 1
}

have() { command -v "$1" > /dev/null 2>&1; }

# Runs a command that may take long. Shows its title, every 15 s that it still runs, and how long it took; what it
# prints goes to build/logs/NAME.log. Returns its exit code; with a code other than 0 the end of the log is shown.
#   step NAME TITLE COMMAND...
step() {
    local code=0
    quiet_step "$@" || code=$?
    [ "$code" -eq 0 ] || show_log "$1" >&2
    return "$code"
}

# The same without the log's end, for a step whose failure has a next attempt.
quiet_step() {
    local title=$2 log=$LOGS/$1.log started=$SECONDS code=0 process last
    shift 2
    mkdir -p "$LOGS"
    printf '%s %s\n' "$(date +%H:%M:%S)" "$title"
    "$@" > "$log" 2>&1 < /dev/null &
    process=$!
    trap 'kill "$process" 2> /dev/null; exit 130' INT TERM
    last=$SECONDS
    while kill -0 "$process" 2> /dev/null; do
        sleep 0.2
        if [ $((SECONDS - last)) -ge 15 ]; then
            last=$SECONDS
            note "still at it after $((SECONDS - started)) s: $(last_line "$log")"
        fi
    done
    wait "$process" || code=$?
    trap - INT TERM
    if [ "$code" -eq 0 ]; then
        note "done in $((SECONDS - started)) s"
    else
        note "ended with code $code after $((SECONDS - started)) s"
    fi
    return "$code"
}

# Prints the last line of a log that says something, cut to fit a terminal.
last_line() {
    tr '\r' '\n' < "$1" 2> /dev/null | sed 's/\x1b\[[0-9;]*m//g' | grep -v '^[[:space:]]*$' | tail -n 1 | cut -c 1-90 || true
}

show_log() {
    printf '%s\n' "---- the end of build/logs/$1.log" >&2
    tail -n 30 "$LOGS/$1.log" | sed 's/^/    /' >&2
    printf '%s\n' "----" >&2
}

# Asks a question that yes or no answers; --yes on the command line (ASSUME_YES=1) or no terminal means yes.
confirm() {
    [ "${ASSUME_YES:-0}" = 1 ] && return 0
    { [ -t 0 ] && [ -t 1 ]; } || return 0
    local answer
    read -r -p "$1 [Y/n] " answer
    case $answer in
        '' | y | Y | yes | Yes) return 0 ;;
        *) return 1 ;;
    esac
}

# Prints the comment at the top of a script, which is its help.
print_help() {
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"
}
