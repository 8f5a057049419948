# shellcheck shell=bash
# Compiles llama-cpp-python's wheel for a board. Sourced by scripts/build-wheel, which sets $root,
# $board (arm64, jetson or qemu), $build (a name for what is built) and, for a jetson, $cuda and $sm.
#
# Every step leaves its result under one name by a rename and is not done again: the tools, the
# CUDA toolkit, the source. The compile itself is ninja's to go on with. Nothing here reads the
# tree while it compiles, so that another commit or another clone goes on with the same folder.

cross=${XDG_CACHE_HOME:-$HOME/.cache}/edge-appliance/cross
# shellcheck disable=SC2034 # for environment.sh
venv=$cross/tools
# shellcheck source=scripts/lib/environment.sh
. "$root/scripts/lib/environment.sh"

platform=manylinux_2_35_aarch64 # Ubuntu 22.04's glibc, which JetPack 6 has

build_wheel() { # FOLDER
    local version work wheel
    [ "$(uname -m)" = x86_64 ] || fail "this compiles on x86 for ARM, and here is $(uname -m)" \
        "./scripts/run, which compiles for the machine that it is on"
    ensure_programs aarch64-linux-gnu-g++:g++-aarch64-linux-gnu readelf:binutils
    mkdir -p "$cross"
    ensure_tools
    version=$(llama_version)
    work=$cross/$board${cuda:+-cuda$cuda-sm$sm}-$version
    mkdir -p "$work/recipe"
    exec 9<"$work"
    flock --nonblock 9 || { say "Waiting for another build of $build to end"; flock 9; }
    [ -z "$cuda" ] || ensure_cuda_toolkit
    ensure_source "$version"
    renew_recipe
    say "Compiling llama.cpp $version for $build; after an interruption, run this again"
    with_progress "compiling" "$work/build.log" ninja_counter compile_wheel ||
        fail_with_log "llama-cpp-python did not build" "$work/build.log" "see the log, then run this again"
    wheel=$(echo "$work"/wheel.new/*.whl)
    examine_wheel "$wheel"
    mkdir -p "$1"
    rm -f "$1"/llama_cpp_python-*
    cp "$wheel" "$1/.${wheel##*/}.new"
    mv "$1/.${wheel##*/}.new" "$1/${wheel##*/}"
    say "Done: $1/${wheel##*/}"
}

# The build tools of constraints.txt, in the folder of their own that $venv names.
ensure_tools() {
    local pins
    pins=$(grep -E '^(scikit-build-core|cmake|ninja)==' "$root/constraints.txt")
    [ ! -f "$venv/.pins" ] || [ "$(<"$venv/.pins")" != "$pins" ] || return 0
    ensure_venv
    say "Fetching the build tools"
    # shellcheck disable=SC2086 # words
    "$venv/bin/python" -m pip install --quiet $pins
    printf '%s\n' "$pins" >"$venv/.pins"
}

ensure_source() { # VERSION
    local new=$work/source.new
    [ ! -d "$work/source" ] || return 0
    say "Fetching llama-cpp-python $1"
    rm -rf "$new"
    mkdir -p "$new"
    PATH=$venv/bin:$PATH "$venv/bin/python" -m pip download --quiet --no-deps --no-build-isolation \
        --no-binary llama-cpp-python --dest "$new" "llama-cpp-python==$1"
    tar -xzf "$new"/*.tar.gz -C "$new" --strip-components 1
    rm "$new"/*.tar.gz
    mv "$new" "$work/source"
}

# What CMake reads of this tree. A file that did not change keeps its time, else all is configured anew.
renew_recipe() {
    local file
    for file in "$root"/scripts/lib/llama-without-common.cmake "$root"/scripts/lib/cross/*.{cmake,cpp}; do
        cmp --quiet "$file" "$work/recipe/${file##*/}" || cp "$file" "$work/recipe/"
    done
}

compile_wheel() {
    local settings=(--config-settings "build-dir=$work/build")
    CMAKE_ARGS=$(board_settings)
    export CMAKE_ARGS
    CMAKE_ARGS+=" -DCMAKE_TOOLCHAIN_FILE=$work/recipe/aarch64.cmake"
    CMAKE_ARGS+=" -DCMAKE_PROJECT_llama.cpp_INCLUDE=$work/recipe/llama-for-boards.cmake"
    # shellcheck disable=SC2034 # parallel_compilers reads it
    [ -z "$cuda" ] || export CUDA_TOOLKIT=$toolkit llama_nvcc=$toolkit/bin/nvcc
    export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(parallel_compilers)}
    export CMAKE_GENERATOR=Ninja PATH=$venv/bin:$PATH
    unset CFLAGS CXXFLAGS # those are for this machine
    # What packaging and scikit-build-core take for the name of the machine that the wheel is for.
    export _PYTHON_HOST_PLATFORM=$platform
    # llama.cpp's own install step puts all libraries into lib/ or bin/ once more.
    settings+=(--config-settings "wheel.exclude=lib/**;bin/**;include/**")
    [ -z "$cuda" ] || settings+=(--config-settings "wheel.build-tag=1cuda${cuda}sm$sm")
    rm -rf "$work/wheel.new"
    exec "$venv/bin/python" -m pip wheel --verbose --no-cache-dir --no-deps --no-build-isolation \
        "${settings[@]}" --wheel-dir "$work/wheel.new" "$work/source"
}

# QEMU works vectors out one number at a time: a block of 32 weights takes it 150 ns with dot
# products, and 52 without any vector.
board_settings() {
    local processor=armv8.2-a+dotprod+fp16
    [ "$board" != qemu ] || processor=armv8-a+nosimd
    echo "$llama_everywhere -DGGML_NATIVE=OFF -DGGML_CPU_ARM_ARCH=$processor $(cuda_settings)"
}

# The CUDA back end is a plug-in: where the board has no CUDA, the rest works without it.
# Virtual memory needs libcuda.so.1 to be there when the library loads, and a board has one GPU.
cuda_settings() {
    [ -z "$cuda" ] || echo "-DGGML_CUDA=ON -DGGML_BACKEND_DL=ON -DCMAKE_CUDA_ARCHITECTURES=$sm-real" \
        "-DGGML_CUDA_NO_VMM=ON -DGGML_CUDA_NCCL=OFF"
}

# Says what it looked at, and fails if the wheel would not load on the board.
examine_wheel() { # WHEEL
    local expected=()
    [ -z "$cuda" ] || expected=(--cuda "$cuda" --sm "$sm" --cuobjdump "$toolkit/bin/cuobjdump")
    "$venv/bin/python" "$root/scripts/lib/cross/examine.py" "${expected[@]}" "$1" ||
        fail "this wheel is not for the board" \
            "make it on Debian 12, whose compiler and libraries fit to JetPack 6; it is in ${1%/*}"
}
