#!/usr/bin/env bash
# Installs the appliance as a system service on Debian, Ubuntu or JetPack. Run it as root from a
# clone; run it again to update. What is there already, the configuration above all, is kept.
#
#   /opt/edge/VERSION   the program; /opt/edge/current links to the one in use
#   /etc/edge           the configuration
#   /var/lib/edge       models and state
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/edge/__init__.py")
venv=/opt/edge/$version install_copy=yes
# shellcheck source=scripts/lib/environment.sh
. "$root/scripts/lib/environment.sh"

main() {
    [ "$(id -u)" -eq 0 ] || fail "this installs a system service and has to be root" "sudo $0"
    command -v apt-get >/dev/null || fail "this is for Debian, Ubuntu and JetPack" \
        "./scripts/run works anywhere that has Python 3.10 and a C++ compiler"
    umask 022
    install_program
    ensure_user
    ensure_config
    install_service
}

install_program() {
    mkdir -p /opt/edge
    ensure_environment ""
    ln -sfn "$version" /opt/edge/current.new
    mv -T /opt/edge/current.new /opt/edge/current
    ln -sf /opt/edge/current/bin/edge /usr/local/bin/edge
    say "Installed edge $version in $venv; the command is /usr/local/bin/edge"
}

ensure_user() {
    local group
    # For the GPU. The unit names both, and systemd refuses unknown ones.
    for group in video render; do groupadd --system --force "$group"; done
    if ! id edge >/dev/null 2>&1; then
        say "Adding the system user edge"
        useradd --system --user-group --home-dir /var/lib/edge --no-create-home \
            --shell /usr/sbin/nologin edge
    fi
    usermod --append --groups video,render edge
    install -d -o edge -g edge -m 0750 /var/lib/edge
}

ensure_config() {
    install -d -m 0755 /etc/edge
    if [ -e /etc/edge/edge.yaml ]; then
        /opt/edge/current/bin/edge config check /etc/edge/edge.yaml ||
            fail "the configuration does not fit this version" "mend it, then run this again"
        return
    fi
    say "Writing /etc/edge/edge.yaml"
    cat >/etc/edge/edge.yaml <<'YAML'
# The edge appliance. What is left out has its default: `edge config show` prints everything in
# force, `edge config check` tells what is wrong. After a change: systemctl restart edge

# device:
#   id: press-07          # default: the host name
#   site: plant-a

# http:
#   host: 127.0.0.1       # 0.0.0.0 lets the network in
#   port: 8080

# models:
#   default: smollm2-135m-instruct
YAML
    chmod 0644 /etc/edge/edge.yaml # no secrets in it: it names files that hold them
}

install_service() {
    install -m 0644 "$root/systemd/edge.service" /etc/systemd/system/edge.service
    if [ ! -d /run/systemd/system ]; then
        say "systemd does not run here. Once it does: systemctl enable --now edge"
        return
    fi
    systemctl daemon-reload
    systemctl enable --quiet edge
    say "Starting the service; the first start fetches the default model"
    systemctl restart edge || {
        journalctl --unit edge --lines 20 --no-pager >&2 || true
        fail "the service did not start" "journalctl -u edge"
    }
    say "Running. See: systemctl status edge; journalctl -fu edge; edge status"
}

main "$@"
