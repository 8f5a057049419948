# shellcheck shell=bash
# A mosquitto on this machine, with a password for the appliance and one for each caller. Sourced by
# install.sh. A broker that somebody has set up already is left alone.

broker_conf=/etc/mosquitto/conf.d/edge.conf broker_acl=/etc/mosquitto/edge.acl
broker_passwords=/etc/mosquitto/edge.passwords

ensure_broker() {
    local changed=""
    wants_broker || return 0
    [ "$(source_kind)" != clone ] || ensure_programs mosquitto:mosquitto mosquitto_pub:mosquitto-clients
    command -v /usr/sbin/mosquitto >/dev/null || return 0
    if [ ! -f "$broker_conf" ]; then
        if grep -qsE '^[[:space:]]*(listener|port|per_listener_settings)\b' \
            /etc/mosquitto/mosquitto.conf /etc/mosquitto/conf.d/*.conf; then
            say "mosquitto has a configuration of its own, which stays: docs/mqtt.md tells what edge needs"
            return
        fi
        say "Setting up mosquitto, on this machine alone"
    fi
    ensure_broker_password
    ensure_broker_acl
    if [ ! -f "$broker_conf" ]; then
        install -m 0644 "$venv/installer/systemd/mosquitto-edge.conf" "$broker_conf.new"
        mv "$broker_conf.new" "$broker_conf"
        changed=restart
    fi
    [ -d /run/systemd/system ] || return 0
    systemctl enable --quiet mosquitto
    systemctl "${changed:-reload-or-restart}" mosquitto ||
        fail "mosquitto does not start" "journalctl -u mosquitto"
}

# Not where the configuration names another machine's, or none.
wants_broker() {
    [ -e /etc/edge/edge.yaml ] || return 0
    "$venv/bin/edge" config show --json --config /etc/edge/edge.yaml 2>/dev/null |
        "$venv/bin/python" -c 'import json, sys
mqtt = json.load(sys.stdin)["mqtt"]
sys.exit(not (mqtt["enabled"] and mqtt["host"] in ("127.0.0.1", "localhost", "::1")))'
}

ensure_broker_password() {
    local file=$credentials/mqtt.password
    if [ ! -s "$file" ]; then
        (umask 077 && head -c 24 /dev/urandom | base64 >"$file.new")
        # Before credentials of systemd the daemon reads it by itself.
        [ "$(systemd_version)" -ge 247 ] || chown edge:edge "$file.new"
        mv "$file.new" "$file"
    fi
    grep -qs '^edge:' "$broker_passwords" || ensure_broker_user edge "$(<"$file")"
}

ensure_broker_user() { # NAME PASSWORD
    [ -f "$broker_passwords" ] || [ "$1" = edge ] || return 0
    local new=$broker_passwords.new
    # By a copy and a rename: a cut must not leave the broker without passwords.
    if [ -f "$broker_passwords" ]; then cp "$broker_passwords" "$new"; else : >"$new"; fi
    chmod 0600 "$new"
    mosquitto_passwd -b "$new" "$1" "$2"
    chown mosquitto: "$new"
    mv "$new" "$broker_passwords"
    if [ -d /run/systemd/system ]; then systemctl reload-or-restart mosquitto || true; fi
}

# Ours goes with the program, unless somebody has edited it.
ensure_broker_acl() {
    local ours=$venv/installer/systemd/mosquitto-edge.acl
    local before=$base/current/installer/systemd/mosquitto-edge.acl
    if [ ! -f "$broker_acl" ] || cmp -s "$broker_acl" "$before"; then
        install -m 0644 "$ours" "$broker_acl.tmp"
        mv "$broker_acl.tmp" "$broker_acl"
    elif ! cmp -s "$broker_acl" "$ours"; then
        install -m 0644 "$ours" "$broker_acl.new"
        say "$broker_acl was edited and stays; this version's is $broker_acl.new"
    fi
}
