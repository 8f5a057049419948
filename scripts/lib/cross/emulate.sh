# shellcheck shell=bash
# Runs a finished wheel under emulation (qemu's user mode) and compares its numbers with those of this
# machine's own llama.cpp. Sourced by scripts/build-wheel, after build.sh and cuda.sh.
#
# The board's Python is Debian's, unpacked into a folder: nobody has to be root, nothing is installed.

model=smollm2-135m-instruct

check_under_emulation() { # FOLDER
    local wheel found=("$1"/llama_cpp_python-*.whl) site=$cross/check-$build numbers=$cross/check-$build/numbers
    wheel=${found[0]}
    [ -f "$wheel" ] || fail "there is no wheel in $1" "$0 --target $board"
    ensure_programs qemu-aarch64-static:qemu-user-static readelf:binutils
    mkdir -p "$cross"
    ensure_tools
    [ -z "$cuda" ] || ensure_cuda_toolkit
    examine_wheel "$wheel"
    ensure_arm_python
    rm -rf "$site"
    mkdir -p "$numbers"
    takes_wheel 3.10 "$site/3.10"
    takes_wheel 3.12 "$site/3.12"
    with_progress "fetching numpy for ARM" "$cross/check.log" last_package install_wheel ||
        fail_with_log "the wheel does not install" "$cross/check.log" "see the log"
    check_back_ends
    compute_numbers
    "$cross/native/bin/python" "$root/scripts/lib/cross/agree.py" \
        "$numbers"/{native,emulated,exact,emulated-exact}.npz || fail "the emulated llama.cpp computes something else" \
        "compare the compiler and its flags with those of a wheel that agreed"
    say "Checked: ${wheel##*/}"
}

ensure_arm_python() {
    [ ! -d "$cross/arm" ] || return 0
    say "Fetching a Python for ARM"
    with_progress "fetching" "$cross/arm.log" nothing_to_tell unpack_arm_python ||
        fail_with_log "there is no Python for ARM" "$cross/arm.log" "check the network, then run this again"
    mv "$cross/arm.new" "$cross/arm"
}

unpack_arm_python() {
    set -e
    local deb
    fetch_debs bookworm arm64 "$cross/debs/arm" install python3 libgomp1 libstdc++6
    rm -rf "$cross/arm.new"
    mkdir -p "$cross/arm.new"
    for deb in "$cross"/debs/arm/*_arm64.deb "$cross"/debs/arm/*_all.deb; do
        dpkg-deb --extract "$deb" "$cross/arm.new"
    done
}

# pip alone decides by the wheel's name whether a board with this Python takes it.
takes_wheel() { # PYTHON FOLDER
    "$venv/bin/python" -m pip install --quiet --dry-run --no-deps --no-index --only-binary :all: \
        --platform $platform --python-version "$1" --target "$2" "$wheel" ||
        fail "Python $1 with glibc 2.35 would not take this wheel" "see pip's message above"
    say "Python $1 on a 64-bit ARM with glibc 2.35 takes ${wheel##*/}"
}

install_wheel() {
    unpack_packages aarch64 "$site/packages" \
        "$wheel numpy typing-extensions diskcache jinja2 markupsafe" \
        --python-version 3.11 --constraint "$root/constraints.txt"
}

on_arm() { # FOLDER-WITH-MORE-LIBRARIES ARGUMENTS… of Python
    qemu-aarch64-static -cpu cortex-a76 -L "$cross/arm" -E "LD_LIBRARY_PATH=$1" \
        -E "PYTHONPATH=$site/packages" "$cross/arm/usr/bin/python3" "${@:2}"
}

# Without CUDA's libraries the wheel works with the processor. With them, the plug-in loads with every
# symbol that it needs; that it finds a GPU can only be seen on a board.
check_back_ends() {
    local program=$root/scripts/lib/cross/back_ends.py found
    found=$(on_arm "" "$program" 2>/dev/null)
    [ "$found" = CPU ] || fail "llama.cpp has the back ends '$found' without CUDA" "see examine.py"
    say "Back ends without CUDA's libraries: $found"
    [ -n "$cuda" ] || return 0
    found=$(on_arm "$toolkit/targets/aarch64-linux/lib" "$program" 2>/dev/null)
    [ "$found" = "CPU CUDA" ] || fail "llama.cpp has the back ends '$found' with CUDA" \
        "LD_DEBUG=libs with the command above"
    say "Back ends with CUDA's libraries: $found"
}

compute_numbers() {
    local program=$root/scripts/lib/cross/logits.py path
    say "Setting up this machine's own llama.cpp, to compare with"
    (
        venv=$cross/native install_copy=yes
        ensure_environment ""
    )
    path=$(model_path)
    say "This machine:"
    "$cross/native/bin/python" "$program" "$path" "$numbers/native.npz" 2>/dev/null
    say "This machine, with the same weights in 32-bit numbers:"
    "$cross/native/bin/python" "$root/scripts/lib/cross/unquantize.py" "$path" "$numbers/exact.gguf" 2>/dev/null
    "$cross/native/bin/python" "$program" "$numbers/exact.gguf" "$numbers/exact.npz" 2>/dev/null
    say "Emulated; this takes minutes:"
    on_arm "" "$program" "$path" "$numbers/emulated.npz" 2>/dev/null
    say "Emulated, with weights in 32-bit numbers, two of the texts:"
    on_arm "" "$program" "$numbers/exact.gguf" "$numbers/emulated-exact.npz" --texts 2 2>/dev/null
    rm "$numbers/exact.gguf"
}

model_path() {
    local edge=$cross/native/bin/edge
    export EDGE_STATE_DIR=$cross/state
    "$edge" models show "$model" --json 2>/dev/null | grep --quiet '"path": "' || "$edge" models pull "$model" >&2
    "$edge" models show "$model" --json | "$cross/native/bin/python" -c 'import json, sys
print(json.load(sys.stdin)["path"])'
}
