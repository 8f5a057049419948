# shellcheck shell=bash
# Which Jetsons are on this PC's USB, by the ids of NVIDIA (0955) that the boot ROM of each module
# shows in recovery mode. Sourced by flash-jetson.sh.

# One line for each board.
boards_in_recovery() {
    local id
    usb_ids | while read -r id; do
        case $id in
        7023) echo "Jetson AGX Orin" ;; # 64 GB, and the developer kit's
        7223) echo "Jetson AGX Orin 32GB" ;;
        7323) echo "Jetson Orin NX 16GB" ;;
        7423) echo "Jetson Orin NX 8GB" ;;
        7523) echo "Jetson Orin Nano 8GB" ;;
        7623) echo "Jetson Orin Nano 4GB" ;;
        esac
    done
}

# Boards that are up show themselves as a network device.
running_boards() {
    local id
    usb_ids | while read -r id; do
        [ "$id" != 7020 ] || echo "A Jetson"
    done
}

usb_ids() {
    command -v lsusb >/dev/null || fail "lsusb is missing" "apt-get install usbutils"
    lsusb | sed -n 's/.*ID 0955:\([0-9a-f]*\).*/\1/p'
}

board_of() { # NAME OF boards_in_recovery
    case $1 in
    *AGX*) echo jetson-agx-orin-devkit ;;
    *) echo jetson-orin-nano-devkit ;;
    esac
}

how_to_recover() {
    echo "hold the force-recovery button (or join FC REC and GND), press reset or switch it on, let go"
}
