# shellcheck shell=bash
# Lays out a CUDA toolkit that runs on x86 and makes programs for ARM. Sourced by scripts/build-wheel.
#
# NVIDIA's own cross packages are not needed: nvcc makes code for any GPU, and leaves the processor's
# to the C++ compiler; beside it lie the headers and the ARM libraries to link with, from NVIDIA's
# packages on PyPI. CUDA 12's nvcc is not there; Debian 13 has it, in non-free. It is unpacked, not
# installed: this machine's own packages stay as they are.

# CUDA 12.4 does for the 12.6 of JetPack 6: what needs libcudart.so.12 runs with all later 12.x.
cuda_12_nvcc="" # from Debian
cuda_12_target="nvidia-cuda-runtime-cu12==12.4.127 nvidia-cuda-nvcc-cu12==12.4.131
    nvidia-cuda-cccl-cu12==12.4.127.post1 nvidia-cublas-cu12==12.4.5.8"
cuda_13_nvcc="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cuobjdump==13.2.51"
cuda_13_target="nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
    nvidia-cublas==13.0.2.14"

# Sets toolkit.
ensure_cuda_toolkit() {
    toolkit=$cross/cuda$cuda
    if [ ! -d "$toolkit" ]; then
        say "Fetching CUDA $cuda: nvcc for this machine, libraries for the board"
        with_progress "fetching" "$cross/cuda$cuda.log" nothing_to_tell lay_out_cuda "$toolkit.new" ||
            fail_with_log "there is no CUDA $cuda" "$cross/cuda$cuda.log" "check the network, then run this again"
        mv "$toolkit.new" "$toolkit"
    fi
    "$toolkit/bin/nvcc" --list-gpu-code | grep --quiet --line-regexp "sm_$sm" ||
        fail "CUDA $cuda makes no code for sm_$sm" \
            "--cuda-arch with one of: $("$toolkit/bin/nvcc" --list-gpu-code | sed 's/sm_//' | paste -s -d ' ')"
}

lay_out_cuda() { # NEW
    set -e
    local new=$1 nvcc=cuda_${cuda}_nvcc target=cuda_${cuda}_target
    rm -rf "$new"
    mkdir -p "$new"/{bin,nvvm/bin,nvvm/libdevice,targets/aarch64-linux/{include,lib}}
    if [ "$cuda" = 12 ]; then
        fetch_debs trixie amd64 "$cross/debs" download nvidia-cuda-toolkit
        take_debian_nvcc
    else
        unpack_packages x86_64 "$new/x86" "${!nvcc}"
        take_nvidia_nvcc
    fi
    write_profile
    unpack_packages aarch64 "$new/arm" "${!target}"
    take_target
    rm -rf "$new"/{x86,arm}
}

take_debian_nvcc() {
    local from=$new/x86/usr
    dpkg-deb --extract "$cross"/debs/nvidia-cuda-toolkit_*_amd64.deb "$new/x86"
    mv "$from"/bin/{bin2c,cudafe++,cuobjdump,fatbinary,nvdisasm,nvlink,ptxas} "$new/bin/"
    mv "$from"/lib/nvidia-cuda-toolkit/bin/{nvcc,crt} "$new/bin/"
    mv "$from/lib/nvidia-cuda-toolkit/bin/cicc" "$new/nvvm/bin/"
    mv "$from/lib/nvidia-cuda-toolkit/libdevice/libdevice.10.bc" "$new/nvvm/libdevice/"
}

take_nvidia_nvcc() {
    cp -r "$new"/x86/nvidia/*/bin/. "$new/bin/"
    cp -r "$new"/x86/nvidia/*/nvvm/. "$new/nvvm/"
    cp -r "$new"/x86/nvidia/*/include/. "$new/targets/aarch64-linux/include/"
    chmod -R u+x "$new"/{bin,nvvm/bin}
}

take_target() {
    local target=$new/targets/aarch64-linux library
    cp -r "$new"/arm/nvidia/*/include/. "$target/include/"
    cp "$new"/arm/nvidia/*/lib/lib{cudart,cublas,cublasLt}.so.* "$target/lib/"
    for library in "$target"/lib/*.so.*; do
        ln -s "${library##*/}" "${library%.so.*}.so"
    done
    # CMake names it whenever it links. It is for kernels that start kernels: there are none.
    ar rc "$target/lib/libcudadevrt.a"
}

# Tells nvcc where all of it is, for the board also where nobody says which target is meant.
write_profile() {
    cat >"$new/bin/nvcc.profile" <<'END'
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/targets/aarch64-linux/include" "-I$(TOP)/targets/aarch64-linux/include/cccl" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/targets/aarch64-linux/lib"
END
}

# Python packages of another machine, unpacked into a folder. pip checks their hashes.
unpack_packages() { # MACHINE FOLDER PACKAGES [PIP OPTIONS…]
    local machine=$1 folder=$2 packages=$3 tag tags=()
    shift 3
    # pip takes a platform for exactly that one, so each glibc before it is named, too.
    for tag in 2014 _2_{17..35}; do tags+=(--platform "manylinux${tag}_$machine"); done
    # shellcheck disable=SC2086 # words
    "$venv/bin/python" -m pip install --progress-bar off --only-binary :all: --no-compile \
        "${tags[@]}" --no-deps "$@" --target "$folder" $packages
}

# Debian packages for whatever this machine is, checked by apt as usual, with lists of its own.
# HOW is `download`, or `install` to fetch with them all that they depend on.
fetch_debs() { # RELEASE ARCHITECTURE FOLDER HOW PACKAGE…
    local release=$1 architecture=$2 folder=$3 how=$4 state=$3/apt-$1-$2 mirror
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg options=()
    shift 4
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || fail "apt knows no mirror of Debian" "apt-get update, on Debian"
    [ "$how" = download ] || options=(--download-only --yes --no-install-recommends)
    mkdir -p "$state"/{lists/partial,archives/partial}
    : >"$state/status"
    echo "deb [arch=$architecture signed-by=$keys] $mirror $release main non-free" >"$state/sources.list"
    cat >"$state/apt.conf" <<END
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state";
Dir::Cache::archives "$folder";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "1";
END
    mkdir -p "$folder/partial"
    (
        cd "$folder"
        export APT_CONFIG=$state/apt.conf
        apt-get update
        apt-get "${options[@]}" "$how" "$@"
    )
}

# The mirror that this machine has its own packages from: it has the other releases, too.
debian_mirror() {
    # shellcheck disable=SC2016 # apt's own fields
    apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }'
}
