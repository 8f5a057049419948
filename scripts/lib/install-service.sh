# shellcheck shell=bash
# The units in /etc/systemd/system, the drop-ins that depend on the machine and its configuration,
# and starting. Sourced by install.sh.

units=/etc/systemd/system root_check=/usr/sbin/user_rootfs_validation.sh

start_service() {
    local changed
    changed=$(install_units)
    if [ ! -d /run/systemd/system ]; then
        say "systemd does not run here. Once it does: systemctl enable --now edge.socket edge"
        return
    fi
    [ -z "$changed" ] || systemctl daemon-reload
    if holds_address; then systemctl enable --quiet edge.socket edge; else systemctl enable --quiet edge; fi
    say "Starting the service; the first start fetches the default model, if it is missing"
    # A socket takes another address only while its service does not run.
    case $changed in
    *socket*) systemctl stop edge.socket edge 2>/dev/null || true ;;
    ?*) systemctl stop edge 2>/dev/null || true ;;
    esac
    # Failed starts of before do not count.
    systemctl reset-failed edge.socket edge 2>/dev/null || true
    if holds_address; then systemctl start edge.socket || true; fi
    systemctl start edge || {
        journalctl --unit edge --lines 20 --no-pager >&2 || true
        fail "the service did not start" "journalctl -u edge"
    }
    # A file of the configuration that was edited since takes effect now.
    [ -n "$changed" ] || systemctl reload edge
    say "Running. See: systemctl status edge; journalctl -fu edge; edge status"
}

# Prints what it has changed.
install_units() {
    local unit
    for unit in edge.service edge.socket edge-rollback.service; do
        put_unit "$unit" <"$venv/installer/systemd/$unit"
    done
    if holds_address; then
        printf '# From http.host and http.port of the configuration; edge-install writes it anew.
[Socket]\nListenStream=\nListenStream=%s\n' "$(http_address)" | put_unit edge.socket.d/address.conf
    else
        drop_unit edge.socket.d/address.conf
    fi
    credential_lines | put_or_drop edge.service.d/credentials.conf
    device_lines | put_or_drop edge.service.d/devices.conf
    ensure_root_check
}

# See root-check. One that somebody else has put there stays.
ensure_root_check() {
    local ours=$venv/installer/scripts/lib/root-check
    has_two_roots && [ -f "$ours" ] || return 0
    [ ! -e "$root_check" ] || is_our_root_check || return 0
    install -m 0755 "$ours" "$root_check.new"
    mv "$root_check.new" "$root_check"
}

has_two_roots() {
    command -v nvbootctrl >/dev/null &&
        nvbootctrl -t rootfs dump-slots-info 2>/dev/null | grep -q '^Current rootfs slot: *[AB]'
}

is_our_root_check() { grep -qs '^base=/opt/edge ' "$root_check"; }

put_unit() { # NAME, contents on stdin
    mkdir -p "$(dirname "$units/$1")"
    cat >"$units/$1.new"
    if cmp -s "$units/$1.new" "$units/$1"; then
        rm "$units/$1.new"
    else
        chmod 0644 "$units/$1.new"
        mv "$units/$1.new" "$units/$1"
        echo "$1"
    fi
}

drop_unit() { # NAME
    [ ! -f "$units/$1" ] || { rm "$units/$1" && echo "$1"; }
}

put_or_drop() { # NAME, lines of [Service] on stdin
    local lines
    lines=$(cat)
    if [ -n "$lines" ]; then
        printf '# Made by scripts/install.sh for this machine; edge-install writes it anew.
[Service]\n%s\n' "$lines" | put_unit "$1"
    else
        drop_unit "$1"
    fi
}

# The socket unit cannot wait on a name, or on a port that is not known before.
holds_address() { http_address >/dev/null; }

http_address() {
    "$venv/bin/edge" config show --json --config /etc/edge/edge.yaml | "$venv/bin/python" -c '
import ipaddress, json, sys
http = json.load(sys.stdin)["http"]
try:
    address = ipaddress.ip_address(http["host"])
except ValueError:
    sys.exit(1)
if not http["port"]:
    sys.exit(1)
print(f"[{address}]" if address.version == 6 else address, http["port"], sep=":")'
}

# Files of /etc/edge/credentials, which the daemon then finds in $CREDENTIALS_DIRECTORY, whoever they
# belong to. Before systemd 247 they have to belong to the user edge, with mode 0600.
credential_lines() {
    local file
    [ "$(systemd_version)" -ge 247 ] || return 0
    for file in "$credentials"/*; do
        [ ! -f "$file" ] || echo "LoadCredential=$(basename "$file"):$file"
    done
}

# 0 where there is none.
systemd_version() {
    local version
    version=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p') || true
    echo "${version:-0}"
}

# A Jetson's nodes. Some have no class of their own, and names differ between releases of L4T.
device_lines() {
    [ -e /dev/nvmap ] || return 0
    find /dev -type c \( -path '/dev/nvmap' -o -path '/dev/nvhost-*' -o -path '/dev/nvgpu/*' -o \
        -path '/dev/nvsciipc' -o -path '/dev/host1x-fence' -o -path '/dev/nvidia*' \) |
        sort | sed 's/.*/DeviceAllow=& rw/'
}
