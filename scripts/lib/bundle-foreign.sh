# shellcheck shell=bash
# What a bundle for another kind of machine is made from: wheels for its processor and its Python, and
# packages of its own release, as its root file system knows where to get them. Nothing of it is run.
#
# Sourced by make-offline-bundle. Reads $root, $cache, $folder and $venv; $rootfs and $native_wheels
# of the command line; reads or sets $machine, $python, $system and $architecture.

# glibc of JetPack 6. Each wheel names the oldest that it runs with, and pip takes those names only
# that it is given, so all of them are.
foreign_glibc=35

# What a root file system says of the machine that it is for.
describe_rootfs() {
    # shellcheck disable=SC2154 # of the command line
    if [ ! -f "$rootfs/etc/os-release" ] || [ ! -f "$rootfs/var/lib/dpkg/status" ]; then
        fail "$rootfs is no root file system of Debian or Ubuntu" "Linux_for_Tegra/rootfs, filled"
    fi
    # shellcheck source=/dev/null
    system=$(. "$rootfs/etc/os-release" && echo "$ID $VERSION_ID")
    architecture=$(sed -n '/^Package: dpkg$/,/^$/s/^Architecture: //p' "$rootfs/var/lib/dpkg/status")
    machine=$(machine_of "$architecture")
    python=$(readlink "$rootfs/usr/bin/python3") || fail "there is no python3 in $rootfs" \
        "install it there: the first boot needs it"
    python=${python##*python}
}

machine_of() { # DEBIAN'S NAME
    case $1 in
    arm64) echo aarch64 ;;
    amd64) echo x86_64 ;;
    *) fail "there are no wheels for the architecture '$1'" "arm64 or amd64" ;;
    esac
}

architecture_of() { # THE KERNEL'S NAME
    case $1 in
    aarch64) echo arm64 ;;
    x86_64) echo amd64 ;;
    *) fail "there are no wheels for the processor '$1'" "--machine aarch64, or x86_64" ;;
    esac
}

gather_foreign_wheels() {
    local version wheel=""
    version=$(sed -n 's/^llama-cpp-python==\([^ ;]*\).*/\1/p' "$root/constraints.txt")
    for wheel in "$native_wheels/llama_cpp_python-$version-"*"_$machine.whl"; do break; done
    [ -f "$wheel" ] || fail "there is no llama-cpp-python $version for $machine in $native_wheels" \
        "./scripts/build-wheel --target jetson, then --wheels build/wheels/jetson"
    cp "$wheel" "$folder/wheels/"
    ensure_uv
    pinned --python-version "$python" --python-platform "$machine-manylinux_2_$foreign_glibc" \
        >"$cache/foreign.txt"
    say "Gathering wheels for Python $python on $machine"
    download_wheels "$cache/foreign.txt"
    build_own_wheel "$folder/wheels"
}

# Its own, so that it is in nobody's way.
ensure_uv() {
    [ ! -x "$cache/tools/bin/uv" ] || return 0
    python3 -m venv "$cache/tools"
    "$cache/tools/bin/python" -m pip install --quiet uv ||
        fail "uv, which finds out what another Python needs, could not be installed" \
            "check the network"
}

# pinned [OPTION…]: name and version of all that edge needs, but for llama.cpp. pip cannot say it: it
# asks the conditions of a requirement of the Python that it runs in itself.
pinned() {
    "$cache/tools/bin/uv" pip compile --quiet --no-header --no-annotate \
        --constraint "$root/constraints.txt" --no-emit-package llama-cpp-python "$@" \
        "$root/pyproject.toml"
}

# A file that is there whole is not fetched again, whatever interrupted the last run.
download_wheels() { # REQUIREMENTS
    local store platforms=() minor
    store=$cache/wheels-$({ echo "$machine $python" && cat "$1"; } | sha256sum | cut -c1-16)
    for minor in $(seq 17 $foreign_glibc); do
        platforms+=(--platform "manylinux_2_${minor}_$machine")
    done
    platforms+=(--platform "manylinux2014_$machine" --platform "linux_$machine")
    mkdir -p "$store"
    with_progress "gathering" "$cache/wheels.log" last_package \
        "$cache/tools/bin/python" -m pip download --progress-bar off --no-deps \
        --only-binary :all: --implementation cp --python-version "$python" \
        "${platforms[@]}" --dest "$store" --requirement "$1" ||
        fail_with_log "pip could not gather the wheels" "$cache/wheels.log" \
            "check the network, then run this again"
    cp "$store"/*.whl "$folder/wheels/"
}

build_own_wheel() { # FOLDER
    PIP_CONSTRAINT=$root/constraints.txt PIP_BUILD_CONSTRAINT=$root/constraints.txt \
        "$cache/tools/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$1" "$root" ||
        fail "edge's own wheel could not be made" "see above"
}

# The command that fetches the model runs here, where the wheels of the bundle do not.
install_foreign_here() {
    ensure_venv
    pinned --python-version \
        "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
        >"$cache/here.txt"
    say "Installing edge here, to fetch the model"
    "$cache/tools/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --reinstall-package \
        edge-appliance --requirement "$cache/here.txt" "$folder"/wheels/edge_appliance-*.whl ||
        fail "edge could not be installed here" "check the network, then run this again"
}

# What the root file system has not got, from the sources and by the keys that it names.
gather_foreign_packages() {
    local apt=$cache/apt-${system/ /}-$architecture options list
    rm -rf "$apt/etc" && mkdir -p "$apt"/{etc,state/lists/partial,cache/archives/partial}
    rm -f "$apt"/cache/archives/*.deb
    cp -r "$rootfs/etc/apt/." "$apt/etc/"
    # NVIDIA's own are made whole by the board itself, and have nothing that we need.
    for list in "$apt"/etc/sources.list.d/*; do
        [ ! -f "$list" ] || ! grep -q '<SOC>' "$list" || rm "$list"
    done
    options=(-o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
        -o "Dir::Etc=$apt/etc" -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache"
        -o "Dir::State::status=$(realpath "$rootfs")/var/lib/dpkg/status"
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o APT::Get::AllowUnauthenticated=false)
    say "Gathering packages of $system for $architecture"
    # shellcheck disable=SC2086 # words
    if ! apt-get "${options[@]}" update >"$cache/apt.log" 2>&1 ||
        ! apt-get "${options[@]}" install -y --download-only --no-install-recommends \
            --no-upgrade $packages >>"$cache/apt.log" 2>&1; then
        fail_with_log "apt could not gather the packages" "$cache/apt.log" \
            "check the network, and the sources in $rootfs/etc/apt"
    fi
    for list in "$apt"/cache/archives/*.deb; do
        [ ! -f "$list" ] || cp "$list" "$folder/debs/"
    done
}
