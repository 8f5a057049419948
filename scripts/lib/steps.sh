# shellcheck shell=bash
# Commands that are shown before they are run, and with --dry-run are shown alone. Sourced by
# build-image and flash-jetson.sh, which set $dry_run (not empty: nothing is run).

# step WHY COMMAND…
step() {
    say "$1"
    shift
    printf '    %s\n' "$(quoted "$@")" >&2
    [ -n "$dry_run" ] || "$@"
}

# As one could type it again.
quoted() {
    local word line=""
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./:=,+@%-]* | "") line+=" '${word//\'/\'\\\'\'}'" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '%s' "${line# }"
}
