# shellcheck shell=bash
# Builds llama-cpp-python for this machine and keeps the wheel, so that a second clone does not
# build again. Sourced by environment.sh.
#
# Why not plain `pip install`: there are no wheels, and pip's own cache of built wheels knows
# nothing of compiler flags. It would hand out a wheel made for another CPU, or without CUDA.

wheel_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/edge-appliance/wheels

# On every machine. Without llamafile's kernels a token's numbers do not depend on what is computed
# beside it: they round otherwise for one or two rows than for more, and the same request then gets
# another text in company, or after a crash.
llama_everywhere="-DLLAVA_BUILD=OFF -DGGML_LLAMAFILE=OFF"

install_llama() {
    local version key wheel mark=$venv/.llama-cpp-python
    version=$(llama_version)
    llama_build_settings
    key=$(llama_build_key "$version")
    if [ -f "$mark" ] && [ "$(<"$mark")" = "$key" ] && has_llama "$version"; then
        return
    fi
    [ -z "${LLAMA_WHEELS:-}" ] || adopt_wheel "$LLAMA_WHEELS" "$version" "$key"
    if ! wheel=$(cached_wheel "$key"); then
        build_llama "$version" "$key"
        wheel=$(cached_wheel "$key")
    fi
    say "Installing llama-cpp-python $version, as built for this machine"
    "$venv/bin/python" -m pip install --quiet --no-deps --no-index --force-reinstall "$wheel"
    printf '%s\n' "$key" >"$mark"
}

llama_version() { sed -n 's/^llama-cpp-python==\([^ ;]*\).*/\1/p' "$root/constraints.txt"; }

# A wheel that was built elsewhere for machines like this one is taken for its own, if FOLDER has one.
adopt_wheel() { # FOLDER VERSION KEY
    local wheel
    for wheel in "$1/llama_cpp_python-$2"-*"_$(uname -m).whl"; do
        [ -f "$wheel" ] || return 0
        say "Taking ${wheel##*/} in place of compiling it"
        mkdir -p "$wheel_cache/$3"
        cp "$wheel" "$wheel_cache/$3/"
    done
}

# In place of the one for the CPU, which has the same package name for Python.
install_onnxruntime_gpu() { # FOLDER
    local wheel
    for wheel in "$1"/onnxruntime_gpu-*.whl; do
        [ -f "$wheel" ] || return 0
        say "Installing ${wheel##*/} in place of onnxruntime"
        "$venv/bin/python" -m pip uninstall --quiet --yes onnxruntime
        "$venv/bin/python" -m pip install --quiet --no-deps --no-index "$wheel"
    done
}

has_llama() { # VERSION
    "$venv/bin/python" -c 'import sys; from importlib.metadata import version
sys.exit(version("llama-cpp-python") != sys.argv[1])' "$1" 2>/dev/null
}

cached_wheel() { # KEY
    local wheel
    for wheel in "$wheel_cache/$1"/*.whl; do
        [ -f "$wheel" ] && echo "$wheel" && return
    done
    return 1
}

# --- Settings ------------------------------------------------------------------------------------

# Sets llama_cmake_args, llama_cflags, llama_cxxflags and llama_nvcc. The user's own settings come
# last and win.
llama_build_settings() {
    llama_cmake_args=$llama_everywhere llama_cflags="" llama_cxxflags="" llama_nvcc=""
    # AMX doubles the speed of one stream and makes prompts four times as fast. But GCC takes the tile
    # configuration that llama.cpp loads for 8 bytes and drops what fills the rest as dead stores,
    # and ldtilecfg crashes (llama.cpp pull request 26954); so no store counts as dead. Compilers
    # without that flag build no AMX code, if they know any.
    if [ "$(uname -m)" = x86_64 ]; then
        if knows_flags "$(cpp_compiler)" c++ -fno-dse; then
            llama_cxxflags=-fno-dse
        elif knows_flags "$(cpp_compiler)" c++ -mno-amx-int8; then
            llama_cxxflags="-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        fi
    fi
    if wants_cuda; then
        llama_nvcc=$(find_nvcc) || fail "CUDA is asked for, and there is no nvcc" \
            "install the CUDA toolkit, or put its bin directory on PATH"
        llama_cmake_args+=" -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=$(cuda_architectures)"
        # On Orin the driver refuses the 32 GB of addresses that the pool would reserve (llama.cpp issue 29142).
        [ "$(uname -m)" != aarch64 ] || llama_cmake_args+=" -DGGML_CUDA_NO_VMM=ON"
    elif has_nvidia_gpu; then
        say "WARNING: an NVIDIA GPU is here, but no nvcc: llama.cpp will use the CPU only."
        say "         Install the CUDA toolkit (on a Jetson: nvidia-jetpack) and run this again."
    fi
    llama_cmake_args+=" ${CMAKE_ARGS:-}"
    llama_cflags+=" ${CFLAGS:-}"
    llama_cxxflags+=" ${CXXFLAGS:-}"
}

cpp_compiler() { command -v "${CXX:-c++}" || command -v g++ || command -v clang++; }

knows_flags() { # COMPILER LANGUAGE FLAG…
    local compiler=$1 language=$2
    shift 2
    "$compiler" "$@" -x "$language" -fsyntax-only /dev/null 2>/dev/null
}

# A CUDA build needs both the compiler and a GPU: without the driver its libraries do not load.
# To build for another machine, say so: CMAKE_ARGS=-DGGML_CUDA=ON.
wants_cuda() {
    case " ${CMAKE_ARGS:-} " in
    *-DGGML_CUDA=ON* | *-DGGML_CUDA=1*) return 0 ;;
    *-DGGML_CUDA=*) return 1 ;;
    esac
    has_nvidia_gpu && find_nvcc >/dev/null
}

has_nvidia_gpu() { [ -e /dev/nvidiactl ] || [ -e /dev/nvmap ] || [ -e /dev/nvhost-gpu ]; }

# The Jetson's nvcc is not on PATH by default, which gives silent CPU-only builds.
find_nvcc() { PATH=$PATH:/usr/local/cuda/bin command -v nvcc; }

cuda_architectures() {
    case "$(tr -d '\0' 2>/dev/null </proc/device-tree/model || true)" in
    *Orin*) echo 87 ;;
    *) echo native ;;
    esac
}

# What the wheel depends on. The macros tell the compiler's version and what it makes of this CPU.
llama_build_key() { # VERSION
    local native=-march=native
    [ "$(uname -m)" = x86_64 ] || native=-mcpu=native
    {
        echo "$1|$llama_cmake_args|$llama_cflags|$llama_cxxflags|$(uname -m)"
        getconf GNU_LIBC_VERSION || true
        cat "$root/scripts/lib/llama-without-common.cmake"
        "$(cpp_compiler)" "$native" -dM -E -x c++ /dev/null 2>/dev/null | sort ||
            grep -m 1 -E '^(flags|Features)' /proc/cpuinfo
        "$(cpp_compiler)" --version
        [ -z "$llama_nvcc" ] || "$llama_nvcc" --version
    } | sha256sum | cut -c1-16
}

# --- Build ---------------------------------------------------------------------------------------

llama_build_dir=

# The wheel appears in the cache by one rename, so an interrupted build leaves nothing to trip over.
build_llama() { # VERSION KEY
    local log=$venv/build-llama.log
    mkdir -p "$wheel_cache"
    exec 9<"$wheel_cache"
    flock --nonblock 9 || { say "Waiting for another build of llama.cpp to end"; flock 9; }
    if ! cached_wheel "$2" >/dev/null; then
        rm -rf "$wheel_cache"/building-*
        llama_build_dir=$wheel_cache/building-$$
        mkdir -p "$llama_build_dir/tmp" "$llama_build_dir/wheel"
        say "Compiling llama.cpp for this machine${llama_nvcc:+ with CUDA}: once, some minutes"
        with_progress "compiling" "$log" ninja_counter run_llama_build "$1" ||
            fail_with_log "llama-cpp-python did not build" "$log" "see the log, then run this again"
        rm -rf "${wheel_cache:?}/$2"
        mv "$llama_build_dir/wheel" "$wheel_cache/$2"
        clean_llama_build
    fi
    exec 9<&-
}

run_llama_build() { # VERSION
    export CMAKE_ARGS="$llama_cmake_args -DCMAKE_PROJECT_llama.cpp_INCLUDE=$root/scripts/lib/llama-without-common.cmake"
    export CFLAGS=$llama_cflags CXXFLAGS=$llama_cxxflags TMPDIR=$llama_build_dir/tmp
    export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(parallel_compilers)}
    # The build tools are pinned too; older and newer pips read one or the other.
    export PIP_CONSTRAINT=$root/constraints.txt PIP_BUILD_CONSTRAINT=$root/constraints.txt
    [ -z "$llama_nvcc" ] || export PATH=$PATH:${llama_nvcc%/*} CUDACXX=$llama_nvcc
    exec "$venv/bin/python" -m pip wheel --verbose --no-cache-dir --no-deps --progress-bar off \
        --no-binary llama-cpp-python --wheel-dir "$llama_build_dir/wheel" "llama-cpp-python==$1"
}

# One for each core, and no more than memory has room for (a CUDA kernel takes up to 2 GB).
parallel_compilers() {
    local each=1000000 room cores
    [ -z "$llama_nvcc" ] || each=2000000
    room=$(awk -v each="$each" '/^MemAvailable/ { print int($2 / each) }' /proc/meminfo)
    cores=$(nproc)
    echo $((room < 1 ? 1 : room < cores ? room : cores))
}

ninja_counter() { # LOG
    local counter
    counter=$(grep -a -o -E '^ *\[[0-9]+/[0-9]+\]' "$1" | tail -n 1 | tr -d ' ')
    echo "${counter:-(fetching source and build tools)}"
}

clean_llama_build() {
    [ -z "$llama_build_dir" ] || rm -rf "$llama_build_dir"
    llama_build_dir=
}
