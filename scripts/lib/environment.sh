# shellcheck shell=bash
# Makes the virtual environment that every script here runs in: system packages where something is
# missing, the venv, llama-cpp-python built for this CPU (llama.sh), the project and its extras.
#
# To be sourced. Reads $root (the repository), $venv (where the environment goes) and, if set,
# $install_copy (not empty: install a copy of the project, not a link to this tree), and gives
# ensure_environment. Nothing is done again while a stamp in the venv says that it is up to date.
#
# For users: PYTHON picks the interpreter; CMAKE_ARGS, CFLAGS, CXXFLAGS, CC and CXX reach the build;
# LLAMA_WHEELS is a folder of build-wheel, whose llama.cpp is taken in place of compiling one.

# shellcheck source=scripts/lib/llama.sh
. "$root/scripts/lib/llama.sh"

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { printf '==> %s\n' "$*" >&2; }

fail() { # MESSAGE [WHAT TO TRY]
    printf 'Error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf 'Try: %s\n' "$2" >&2
    exit 1
}

# ensure_environment [EXTRAS], such as "test,check". Safe to call from several scripts at once.
ensure_environment() {
    local extras=${1:-} stamp fingerprint
    stamp=$venv/.installed${extras:+-${extras//,/-}}
    up_to_date "$stamp" && return
    exec 8<"$root"
    flock --nonblock 8 || { say "Waiting for another set-up of this tree to end"; flock 8; }
    if ! up_to_date "$stamp"; then
        ensure_system_packages
        ensure_venv
        install_llama
        install_project "$extras"
        fingerprint=$(environment_fingerprint)
        printf '%s\n' "$fingerprint" >"$stamp"
    fi
    exec 8<&-
}

# A stamp with more extras, such as .installed-test for .installed, does as well.
up_to_date() { # STAMP
    local stamp fingerprint
    [ -x "$venv/bin/python" ] || return
    fingerprint=$(environment_fingerprint)
    for stamp in "$1"*; do
        [ ! -f "$stamp" ] || [ "$(<"$stamp")" != "$fingerprint" ] || return 0
    done
    return 1
}

# Everything that the environment is made from. pyvenv.cfg names the Python and its version.
environment_fingerprint() {
    {
        echo "$root" "${CMAKE_ARGS:-}" "${CFLAGS:-}" "${CXXFLAGS:-}" "$(wants_cuda && echo cuda)"
        cat "$root/pyproject.toml" "$root/constraints.txt" "$root"/scripts/lib/*.* "$venv/pyvenv.cfg"
        [ -z "${install_copy:-}" ] ||
            find "$root/edge" "$root/models" -type f ! -name '*.pyc' -exec sha256sum {} + | sort
    } | sha256sum | cut -c1-32
}

# --- What the system has to have -----------------------------------------------------------------

ensure_system_packages() {
    local missing=()
    [ -z "${PYTHON:-}" ] || find_python >/dev/null ||
        fail "PYTHON=$PYTHON is not a Python 3.10 or newer" "name another, or leave PYTHON unset"
    [ -x "$venv/bin/python" ] || find_python venv ensurepip >/dev/null || missing+=("$(venv_package)")
    compiles_cpp || missing+=(g++)
    [ ${#missing[@]} -eq 0 ] || install_system_packages "${missing[@]}"
}

# ensure_programs PROGRAM:PACKAGE…: installs the packages of those that are not there.
ensure_programs() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || install_system_packages "${missing[@]}"
}

# find_python [MODULE…]: the first Python 3.10 or newer that has these modules.
find_python() {
    local candidate check="import sys; assert sys.version_info >= (3, 10)" module
    for module in "$@"; do check+="; import $module"; done
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        if "$candidate" -c "$check" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

venv_package() {
    local python
    if python=$(find_python); then
        "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
    else
        echo "python3-venv"
    fi
}

compiles_cpp() {
    local compiler
    compiler=$(cpp_compiler) && echo '#include <cstdlib>' | "$compiler" -x c++ -fsyntax-only - 2>/dev/null
}

install_system_packages() { # PACKAGE…
    local as_root=() command log
    command="apt-get install $*"
    command -v apt-get >/dev/null || fail "this machine lacks what Debian calls: $*" \
        "install them (Python 3.10 or newer with venv, a C++ compiler), then run this again"
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || fail "this machine lacks: $*" "sudo $command"
        as_root=(sudo -n)
    fi
    say "Installing system packages: $*"
    log=$(mktemp)
    with_progress "apt-get update" "$log" nothing_to_tell "${as_root[@]}" apt-get update ||
        fail_with_log "apt-get update failed" "$log" "check the network and the package sources"
    with_progress "apt-get install" "$log" nothing_to_tell \
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@" ||
        fail_with_log "apt-get could not install: $*" "$log" "$command"
    rm -f "$log"
}

nothing_to_tell() { :; }

# --- The virtual environment ---------------------------------------------------------------------

ensure_venv() {
    local python
    if "$venv/bin/python" -c 'import sys, pip; assert sys.version_info >= (3, 10)' 2>/dev/null; then
        return
    fi
    python=$(find_python venv ensurepip) || fail \
        "no Python 3.10 or newer here (python3 is $(python3 --version 2>&1 || true))" \
        "install one, or name it: PYTHON=/path/to/python3.11 $0"
    say "Making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
}

install_project() { # EXTRAS
    local target=("$root${1:+[$1]}")
    [ -n "${install_copy:-}" ] || target=(--editable "${target[@]}")
    say "Installing edge${1:+ with what $1 needs}"
    with_progress "installing" "$venv/install.log" last_package \
        "$venv/bin/python" -m pip install --progress-bar off \
        --constraint "$root/constraints.txt" "${target[@]}" ||
        fail_with_log "pip could not install the packages" "$venv/install.log" \
            "check the network, then run this again"
}

last_package() { # LOG
    sed -n -e 's/^ *Collecting \([A-Za-z0-9._-]*\).*/\1/p' -e 's/^Installing collected.*/all/p' "$1" |
        tail -n 1
}

# --- Long work -----------------------------------------------------------------------------------

background_job=

# with_progress LABEL LOG READER COMMAND…: runs COMMAND with its output in LOG, and tells what
# `READER LOG` prints: on one line that is rewritten, or every 15 s where there is no terminal.
with_progress() {
    local label=$1 log=$2 reader=$3 started=$SECONDS told=$SECONDS line status=0
    shift 3
    : >"$log"
    # A process group of its own, so that stopping it takes compilers and all with it.
    set -m
    "$@" >>"$log" 2>&1 </dev/null 6<&- 8<&- 9<&- &
    background_job=$!
    set +m
    while kill -0 "$background_job" 2>/dev/null; do
        sleep 1
        line="    $label $("$reader" "$log") ($((SECONDS - started)) s)"
        if [ -t 2 ]; then
            printf '\r\033[K%s' "$line" >&2
        elif [ $((SECONDS - told)) -ge 15 ]; then
            told=$SECONDS
            printf '%s\n' "$line" >&2
        fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
    wait "$background_job" || status=$?
    background_job=
    return "$status"
}

fail_with_log() { # MESSAGE LOG WHAT TO TRY
    tail -n 40 "$2" >&2
    fail "$1; the whole log: $2" "$3"
}

stop_background_job() {
    if [ -n "$background_job" ]; then
        kill -TERM -- "-$background_job" 2>/dev/null || true
        wait "$background_job" 2>/dev/null || true
        background_job=
    fi
    clean_llama_build
}

trap stop_background_job EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
