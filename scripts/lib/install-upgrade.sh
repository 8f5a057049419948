# shellcheck shell=bash
# From one version to the next. The new one first answers beside the old one, on a port and with a
# state of its own; then it is on trial until it has answered as the service. `trial` goes back, also
# after a power cut. Sourced by install.sh.

patience=600 # seconds that a big model may take to load and answer

switch_over() { # FROM TO
    say "Trying edge $2 beside $1"
    if ! canary; then
        cp "$venv/.identity" "$base/.failed"
        fail "edge $2 does not answer on this machine, so $1 goes on" \
            "see what it said above; if memory was short: systemctl stop edge.socket edge, then again"
    fi
    if [ ! -d /run/systemd/system ]; then
        use_version "$2"
        install_units >/dev/null
        return
    fi
    say "Going over to edge $2"
    rm -rf "$state/before-upgrade"
    begin_trial "$1"
    use_version "$2"
    install_units >/dev/null
    systemctl daemon-reload
    systemctl reset-failed edge.socket edge 2>/dev/null || true
    if holds_address; then
        # From a version that had no socket: it is there from the next boot on.
        systemctl enable --quiet edge.socket
        systemctl start edge.socket 2>/dev/null || true
    fi
    if systemctl restart edge && answers; then
        rm -rf "$state/before-upgrade"
        remove_older "$1" "$2"
        say "Running edge $2; $1 is kept beside it"
        return
    fi
    journalctl --unit edge --lines 20 --no-pager >&2 || true
    # It may have been ready and not answered: then the trial was over.
    begin_trial "$1"
    "$base/trial" back || fail "edge $2 did not start, and $1 does not either" "journalctl -u edge"
    fail "edge $2 did not start as the service, so edge $1 runs again" "journalctl -u edge"
}

# The version before, through the same trial.
go_back() {
    local now before
    now=$(version_in_use)
    before=$(version_before) || fail "no version but edge $now is here" "install.sh upgrade --offline BUNDLE"
    rm -f "$base/.failed"
    venv=$base/$before
    switch_over "$now" "$before"
}

# The newest other one that is whole.
version_before() {
    local mark
    # shellcheck disable=SC2012 # names that install.sh gave
    for mark in $(ls -t "$base"/[0-9]*/.identity 2>/dev/null); do
        mark=$(basename "$(dirname "$mark")")
        [ "$mark" = "$(version_in_use)" ] || { echo "$mark" && return; }
    done
    return 1
}

begin_trial() { # THE VERSION TO GO BACK TO
    echo "$1" >"$base/.trial.new"
    sync "$base/.trial.new"
    mv "$base/.trial.new" "$base/.trial"
    sync "$base"
}

answers() {
    timeout "$patience" "$venv/bin/edge" chat --max-tokens 4 "Say yes." >/dev/null
}

# A daemon of the new version with the real configuration, but for the doors and the reports, and
# with the real models, whose pages it shares with the one that serves.
canary() {
    local scratch=$state/.canary pid status=0
    "$venv/bin/edge" doctor >&2 || say "edge doctor has complaints, see above"
    rm -rf "$scratch"
    install -d -o edge -g edge -m 0700 "$scratch" "$scratch/credentials"
    ln -s ../models "$scratch/models"
    for file in "$credentials"/*; do
        [ ! -f "$file" ] || install -o edge -g edge -m 0600 "$file" "$scratch/credentials/"
    done
    # shellcheck disable=SC2154 # of install-machine.sh
    "${as_edge[@]}" EDGE_STATE_DIR="$scratch" CREDENTIALS_DIRECTORY="$scratch/credentials" \
        EDGE_CONFIG=/etc/edge/edge.yaml EDGE_HTTP__HOST=127.0.0.1 EDGE_HTTP__PORT=0 \
        EDGE_HTTP__TLS=false EDGE_AUTH__REQUIRED=false EDGE_MQTT__ENABLED=false \
        EDGE_SYNC__REPORT_URL=null EDGE_MODELS__PRELOAD='[]' EDGE_ENGINE__SLOTS=1 \
        EDGE_ENGINE__CONTEXT=512 "$venv/bin/edge" serve >"$scratch/log" 2>&1 </dev/null 6<&- &
    pid=$!
    canary_answers "$scratch/log" "$pid" || status=$?
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    [ "$status" -eq 0 ] || tail -n 20 "$scratch/log" >&2
    rm -rf "$scratch"
    return "$status"
}

canary_answers() { # LOG PID
    local url="" waited=0
    while [ -z "$url" ]; do
        kill -0 "$2" 2>/dev/null && [ "$waited" -lt "$patience" ] || return 1
        sleep 1
        waited=$((waited + 1))
        url=$(sed -n 's/.*listens on \(http:[^ ]*\).*/\1/p' "$1")
    done
    timeout "$patience" "$venv/bin/python" "$venv/installer/scripts/lib/probe.py" ready \
        127.0.0.1 "${url##*:}" "$2" || return 1
    timeout "$patience" "$venv/bin/edge" chat --url "$url" --max-tokens 4 "Say yes." >/dev/null
}

# The version before is kept; those before it are not.
remove_older() { # FROM TO
    local folder name
    for folder in "$base"/*/; do
        name=$(basename "$folder")
        [ "$name" = "$1" ] || [ "$name" = "$2" ] || [ "$name" = current ] || rm -rf "$folder"
    done
}
