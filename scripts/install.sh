#!/usr/bin/env bash
# Installs the appliance as a system service on Debian, Ubuntu or JetPack, upgrades it and takes it
# away again. To be run as root; any command may be run again, after a power cut too.
#
#   install.sh [--offline BUNDLE]            installs what is missing; what is there already, the
#                                            configuration above all, is kept
#   install.sh upgrade [--offline BUNDLE]    the same, where an older version is; it comes back by
#                                            itself if the new one does not answer
#   install.sh back                          to the version before, in the same way
#   install.sh prepare [--offline BUNDLE]    the program and its user alone: nothing is configured,
#                                            nothing started, and a version in use stays in use
#   install.sh uninstall [--keep-data|--purge]
#
#   /opt/edge/VERSION   the program; /opt/edge/current links to the one in use
#   /etc/edge           the configuration, and secrets in credentials/
#   /var/lib/edge       models, keys and the queue
#
# It is run from a clone, from a bundle of make-offline-bundle, or as edge-install, the copy of it
# that it leaves on the machine: that one applies what has changed in the configuration.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
# shellcheck disable=SC2034 # for the parts below
base=/opt/edge state=/var/lib/edge venv="" install_copy=yes
for part in environment install-program install-machine install-broker install-service \
    install-upgrade install-remove; do
    # shellcheck source=/dev/null
    . "$root/scripts/lib/$part.sh"
done

usage="install.sh [upgrade|prepare] [--offline BUNDLE], install.sh back, or install.sh uninstall [--keep-data|--purge]"

main() {
    local command=install bundle="" data=ask
    read_arguments "$@"
    [ "$(id -u)" -eq 0 ] || fail "this changes the system and has to be root" "sudo $0 $*"
    command -v apt-get >/dev/null || fail "this is for Debian, Ubuntu and JetPack" \
        "./scripts/run works anywhere that has Python 3.10 and a C++ compiler"
    umask 022
    cd /
    case $command in
    upgrade | back) [ -L "$base/current" ] || fail "there is nothing to upgrade: edge is not installed" "$0" ;;
    esac
    [ -z "$bundle" ] || run_bundle "$bundle" "$command"
    be_alone
    case $command in
    uninstall) remove_all "$data" ;;
    back) go_back ;;
    prepare) prepare ;;
    *) install_all ;;
    esac
}

read_arguments() { # sets command, bundle and data
    case ${1:-} in
    install | upgrade | back | prepare | uninstall) command=$1 && shift ;;
    esac
    while [ $# -gt 0 ]; do
        case $command:$1 in
        uninstall:--keep-data | uninstall:--purge) data=${1#--} ;;
        install:--offline | upgrade:--offline | prepare:--offline)
            [ -n "${2:-}" ] || wrong_usage "--offline needs a bundle"
            bundle=$(realpath -- "$2") && shift
            ;;
        *:--help | *:-h) echo "usage: $usage" && exit ;;
        *) wrong_usage "$command does not know '$1'" ;;
        esac
        shift
    done
}

wrong_usage() {
    printf 'Error: %s\nTry: %s\n' "$1" "$usage" >&2
    exit 2
}

# Two at once would each take the other's half-made version for one that was cut.
be_alone() {
    mkdir -p "$base"
    exec 6<"$base"
    flock --nonblock 6 || fail "another installation is under way" "wait for it: edge update tells how it ends"
}

prepare() {
    install_program
    ensure_user
}

install_all() {
    local before
    before=$(version_in_use)
    rm -f "$base/.failed"
    prepare
    ensure_update_keys
    ensure_broker
    ensure_config
    ensure_model
    if [ -z "$before" ]; then
        use_version "${venv##*/}"
        ensure_first_keys
        start_service
    elif [ "$before" != "${venv##*/}" ]; then
        switch_over "$before" "${venv##*/}"
    else
        ensure_first_keys
        start_service
    fi
}

main "$@"
