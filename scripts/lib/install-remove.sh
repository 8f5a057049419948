# shellcheck shell=bash
# Takes everything away again that install.sh has made; models, keys, queue and configuration only
# where that is wanted. Packages stay. Sourced by install.sh.

remove_all() { # ask, keep-data or purge
    local data=$1
    [ "$data" != ask ] || data=$(ask_about_data)
    say "Removing edge"
    if [ -d /run/systemd/system ]; then
        systemctl disable --quiet --now edge.socket edge.service 2>/dev/null || true
    fi
    rm -rf "$units"/edge.service "$units"/edge.socket "$units"/edge-rollback.service \
        "$units"/edge.service.d "$units"/edge.socket.d
    # Or a flashed machine that was not finished would begin again.
    rm -f "$units/multi-user.target.wants/edge-firstboot.service"
    rm -f /usr/local/bin/edge /usr/local/sbin/edge-install
    ! is_our_root_check || rm -f "$root_check"
    remove_broker "$data"
    rm -rf /var/cache/edge
    if [ "$data" = purge ]; then
        rm -rf "$state" /etc/edge /var/log/edge
        rm -rf /usr/share/edge/bundle /usr/lib/edge-firstboot /var/lib/edge-firstboot \
            /usr/lib/systemd/system/edge-firstboot.service
        if id edge >/dev/null 2>&1; then userdel edge; fi
        say "Models, keys, queue and configuration are gone"
    else
        say "Kept: /etc/edge and $state; install.sh goes on with them"
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        systemctl reset-failed edge.service edge.socket 2>/dev/null || true
    fi
    # Last: this program may lie there.
    rm -rf "$base"
    say "edge is uninstalled"
}

ask_about_data() {
    local answer
    [ -t 0 ] || fail "models, keys, queue and configuration: are they to go, too?" \
        "$0 uninstall --keep-data, or $0 uninstall --purge"
    read -rp "Remove models, keys, queue and configuration, too? Type purge to do so: " answer
    if [ "$answer" = purge ]; then echo purge; else echo keep-data; fi
}

# Without its users the broker would let nobody in, so they stay with the rest of the data.
remove_broker() { # keep-data or purge
    [ "$1" = purge ] && [ -f "$broker_conf" ] || return 0
    rm -f "$broker_conf" "$broker_acl" "$broker_acl.new" "$broker_passwords"
    if [ -d /run/systemd/system ]; then systemctl try-restart mosquitto || true; fi
}
