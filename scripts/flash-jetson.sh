#!/usr/bin/env bash
# Flashes a Jetson Orin with NVIDIA's tools, so that it comes up as an appliance. On a Linux PC (x86),
# as root, with NVIDIA's L4T package (r36, JetPack 6) unpacked and its sample root file system in
# Linux_for_Tegra/rootfs; the board on its recovery port, in recovery mode.
#
#   flash-jetson.sh [OPTION…] LINUX_FOR_TEGRA
#
#   --storage nvme      where the root file system goes: nvme, or internal (the AGX Orin's eMMC)
#   --ab                two root file systems, of which an update takes the other one
#   --massflash N       one image for N boards, then all that are connected at once
#   --board NAME        NVIDIA's name of the board; else by what is connected: jetson-agx-orin-devkit or
#                       jetson-orin-nano-devkit (Orin NX and Nano). Other carrier boards need it
#   --user NAME         with --password-file FILE: the user to log in as. Without, and if there is none
#                       in the root file system, NVIDIA's assistant asks on the screen at the first boot
#   --accept-license    you have read NVIDIA's licence, which it would show (with --user)
#   --overlay FILE      of build-image; else it is made now, with
#   --wheels FOLDER     llama.cpp for the board, of build-wheel; build/wheels/jetson
#   --sign KEY          a file of `edge bundle keygen`, by which the boards know later updates
#   --config FILE       an edge.yaml for all boards; one on a board's boot partition wins
#   --dry-run           show each step and do nothing
#
# The board is erased. NVIDIA's own steps are NVIDIA's: apply_binaries.sh, l4t_create_default_user.sh and
# l4t_initrd_flash.sh, as its Quick Start and README_initrd_flash.txt have them.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # for environment.sh
venv=$root/.venv
# shellcheck source=scripts/lib/environment.sh
. "$root/scripts/lib/environment.sh"
# shellcheck source=scripts/lib/steps.sh
. "$root/scripts/lib/steps.sh"
# shellcheck source=scripts/lib/jetson-boards.sh
. "$root/scripts/lib/jetson-boards.sh"

l4t="" storage=nvme ab="" boards="" board="" user="" password_file="" licence=() dry_run=""
overlay="" wheels=$root/build/wheels/jetson config="" sign=()
initrd_flash=./tools/kernel_flash/l4t_initrd_flash.sh

main() {
    read_arguments "$@"
    check_host
    check_boards
    say "Board: $board, root on $storage${ab:+, A/B}${boards:+, up to $boards at once}"
    cd "$l4t"
    [ -f rootfs/etc/nv_tegra_release ] || step "Putting NVIDIA's software in" ./apply_binaries.sh
    [ -z "$user" ] || create_user
    lay_overlay
    flash
    [ -n "$dry_run" ] || say "Done. The board starts and sets itself up: its console tells, and then" \
        "edge-first-boot.txt on its boot partition"
}

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        --storage | --massflash | --board | --user | --password-file | --overlay | --wheels | \
            --config | --sign)
            [ -n "${2:-}" ] || fail "$1 needs a value" "see the top of $0"
            ;;&
        --storage) storage=$2 && shift ;;
        --massflash) boards=$2 && shift ;;
        --board) board=$2 && shift ;;
        --user) user=$2 && shift ;;
        --password-file) password_file=$(realpath -- "$2") && shift ;;
        --overlay) overlay=$(realpath -- "$2") && shift ;;
        --wheels) wheels=$(realpath -- "$2") && shift ;;
        --config) config=$(realpath -- "$2") && shift ;;
        --sign) sign=(--sign "$(realpath -- "$2")") && shift ;;
        --ab) ab=yes ;;
        --accept-license) licence=(--accept-license) ;;
        --dry-run) dry_run=yes ;;
        -*) fail "flash-jetson.sh does not know '$1'" "see the top of $0" ;;
        *) l4t=$1 ;;
        esac
        shift
    done
    case $storage in nvme | internal) ;; *) fail "--storage is nvme or internal" "$0 --storage nvme" ;; esac
    case $boards in *[!0-9]* | 0*) fail "--massflash wants a number of boards" "--massflash 5" ;; esac
    [ -z "$user" ] || [ -f "$password_file" ] ||
        fail "--user needs a file with the password" "--password-file FILE"
}

check_host() {
    [ -n "$l4t" ] || fail "where is NVIDIA's package?" "$0 /path/to/Linux_for_Tegra"
    [ -n "$dry_run" ] || [ "$(id -u)" -eq 0 ] || fail "NVIDIA's tools have to be root" "sudo $0 …"
    l4t=$(realpath -- "$l4t")
    local tool
    for tool in apply_binaries.sh tools/l4t_create_default_user.sh "$initrd_flash"; do
        [ -x "$l4t/$tool" ] || fail "$l4t is not NVIDIA's Linux_for_Tegra: it has no $tool" \
            "tar -xf Jetson_Linux_R36.4.4_aarch64.tbz2, then name the folder that it makes"
    done
    [ -f "$l4t/rootfs/etc/os-release" ] || fail "$l4t/rootfs is empty" \
        "sudo tar -xpf Tegra_Linux_Sample-Root-Filesystem_R36.4.4_aarch64.tbz2 -C $l4t/rootfs"
}

# In recovery mode. More than one only where all are meant.
check_boards() {
    local found name
    found=$(boards_in_recovery)
    if [ -z "$found" ]; then
        running_boards | while read -r name; do say "$name runs, and is not in recovery mode"; done
        fail "no Jetson Orin is in recovery mode on this PC's USB" "$(how_to_recover)"
    fi
    while read -r name; do say "In recovery mode: $name"; done <<<"$found"
    [ -n "$boards" ] || [ "$(wc -l <<<"$found")" -eq 1 ] ||
        fail "more than one board is in recovery mode" "unplug the others, or --massflash N"
    [ -z "$boards" ] || [ "$(wc -l <<<"$found")" -le "$boards" ] ||
        fail "more than $boards boards are in recovery mode" "--massflash $(wc -l <<<"$found")"
    [ "$(sort -u <<<"$found" | wc -l)" -eq 1 ] ||
        fail "the boards are not all of one kind, and one image is for one kind" "unplug the others"
    name=$(head -n 1 <<<"$found")
    [ -n "$board" ] || board=$(board_of "$name")
    case $storage:$name in
    internal:*"Orin NX"* | internal:*"Orin Nano"*)
        fail "$name has no eMMC" "--storage nvme"
        ;;
    esac
    [ -f "$l4t/$board.conf" ] || fail "NVIDIA's package knows no board '$board'" "ls $l4t/*.conf"
}

# Else NVIDIA's assistant asks for a name, a password, a keyboard… at the first boot.
create_user() {
    if grep -q "^$user:" "$l4t/rootfs/etc/passwd"; then
        say "The user $user is there already"
        return
    fi
    # The password is in no line that is shown.
    say "Creating the user $user"
    printf '    %s\n' "$(quoted ./tools/l4t_create_default_user.sh -u "$user" -p '…' -n edge "${licence[@]}")" >&2
    [ -n "$dry_run" ] || ./tools/l4t_create_default_user.sh -u "$user" -p "$(<"$password_file")" \
        -n edge "${licence[@]}"
}

lay_overlay() {
    local options=(--rootfs "$l4t/rootfs" --wheels "$wheels" "${sign[@]}")
    if [ -z "$overlay" ]; then
        overlay=$l4t/edge-overlay.tar.zst
        [ -z "$config" ] || options+=(--config "$config")
        step "Making the overlay" "$root/scripts/build-image" "${options[@]}" "$overlay"
    elif [ -n "$config${sign[*]}" ]; then
        fail "--config and --sign are for an overlay that is made now" "build-image does it"
    fi
    step "Laying the overlay over the root file system" tar --zstd --keep-directory-symlink \
        -xpf "$overlay" -C rootfs
}

# NVIDIA's tool writes the images and then the board, which takes its orders over the USB cable as a
# network (usb0).
flash() {
    local settings=() layout=() where=internal
    [ -z "$ab" ] || settings=(env ROOTFS_AB=1 ROOTFS_RETRY_COUNT_MAX=3)
    if [ "$storage" = nvme ]; then
        layout=(--external-device nvme0n1p1
            -c "tools/kernel_flash/flash_l4t_t234_nvme${ab:+_rootfs_ab}.xml")
        [ -n "$dry_run" ] || [ -f "${layout[3]}" ] ||
            fail "there is no ${layout[3]} in $l4t" "take L4T r36 (JetPack 6)"
        # Orin NX and Nano start from a flash chip that holds no root file system. With A/B, and on an
        # AGX Orin, the root is named by the partition's number on the NVMe.
        case $board in *agx*) ;; *) layout+=(-p "-c bootloader/generic/cfg/flash_t234_qspi.xml") ;; esac
        case $board:$ab in *agx* | *:yes) where=external ;; esac
    fi
    if [ -z "$boards" ]; then
        step "Flashing" "${settings[@]}" "$initrd_flash" "${layout[@]}" --showlogs --network usb0 \
            "$board" "$where"
        return
    fi
    step "Making one image for up to $boards boards" "${settings[@]}" "$initrd_flash" --no-flash \
        --massflash "$boards" "${layout[@]}" --showlogs --network usb0 "$board" "$where"
    [ -n "$dry_run" ] || wait_for_recovery
    step "Flashing all that are connected" "$initrd_flash" --flash-only --massflash "$boards" \
        --showlogs --network usb0
}

# Making the image has asked one board what it is, after which it has to be put in recovery mode again.
wait_for_recovery() {
    [ -z "$(boards_in_recovery)" ] || return 0
    say "Put the boards into recovery mode again: $(how_to_recover)"
    until [ -n "$(boards_in_recovery)" ]; do sleep 2; done
}

main "$@"
