# shellcheck shell=bash
# The program in /opt/edge: one folder for each version, made whole before it is used. Sourced by
# install.sh. Gives install_program, which sets $venv, and version_in_use, use_version, run_bundle.

version_in_use() { readlink "$base/current" || true; }

# What is to be installed lies in $root: a clone, an unpacked bundle, or nothing, where this is the
# copy that belongs to an installed version.
source_kind() {
    if [ -f "$root/bundle.env" ]; then
        echo bundle
    elif [ -f "$root/edge/__init__.py" ]; then
        echo clone
    else
        echo installed
    fi
}

install_program() {
    local kind identity
    kind=$(source_kind)
    if [ "$kind" = installed ]; then
        venv=$base/$(version_in_use)
        return
    fi
    mkdir -p "$base"
    [ "$kind" = clone ] || check_bundle
    identity=$(program_identity)
    venv=$(program_folder "$identity")
    if [ ! -f "$venv/.identity" ]; then
        # What an interrupted installation left is not mended but made again.
        rm -rf "$venv"
        if [ "$kind" = bundle ]; then install_from_bundle; else ensure_environment ""; fi
        mkdir -p "$venv/installer/scripts"
        cp -r "$root/systemd" "$venv/installer/"
        cp -r "$root/scripts/install.sh" "$root/scripts/lib" "$venv/installer/scripts/"
        [ "$kind" = clone ] || bundle_says made_at >"$venv/installer/made_at"
        # After a power cut a folder with this mark has all its files.
        sync
        echo "$identity" >"$venv/.identity"
        sync
    fi
    say "The program is in $venv"
}

program_version() {
    if [ -f "$root/bundle.env" ]; then
        bundle_says version
    else
        sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/edge/__init__.py"
    fi
}

program_identity() {
    if [ -f "$root/SHA256SUMS" ]; then
        sha256sum <"$root/SHA256SUMS"
    else
        (cd "$root" && find edge models scripts systemd pyproject.toml constraints.txt -type f \
            ! -name '*.pyc' -exec sha256sum {} + | sort | sha256sum)
    fi | cut -c1-8
}

# A version's own name; another build of a version that is here goes beside it.
program_folder() { # IDENTITY
    local folder
    folder=$base/$(program_version)
    if [ -f "$folder/.identity" ] && [ "$(<"$folder/.identity")" != "$1" ] ||
        { [ ! -f "$folder/.identity" ] && [ "${folder##*/}" = "$(version_in_use)" ]; }; then
        folder+=-$1
    fi
    echo "$folder"
}

# One rename, so that a power cut leaves the one or the other.
use_version() { # NAME
    ln -sfn "$1" "$base/current.new"
    mv -T "$base/current.new" "$base/current"
    install -m 0755 "$venv/installer/scripts/lib/trial" "$base/trial.new"
    mv -T "$base/trial.new" "$base/trial"
    ln -sf "$base/current/bin/edge" /usr/local/bin/edge
    ln -sf "$base/current/installer/scripts/install.sh" /usr/local/sbin/edge-install
    sync
    say "In use: edge $1; the command is /usr/local/bin/edge"
}

# --- Bundles -------------------------------------------------------------------------------------

bundle_says() { sed -n "s/^$1=//p" "$root/bundle.env"; } # KEY

# Goes on with the bundle's own copy of this program, which fits what is in it.
run_bundle() { # FILE-OR-FOLDER COMMAND
    local folder=$1
    # Where it matters who made it, the version that is here finds that out before it unpacks anything.
    if [ -x "$base/current/bin/edge" ] && has_update_keys; then
        [ -f "$1" ] || fail "a bundle that is unpacked cannot be checked" "give the file"
        exec "$base/current/bin/edge" update "$1"
    fi
    if [ -f "$1" ]; then
        folder=$base/.bundle
        mkdir -p "$base"
        rm -rf "$folder" && mkdir "$folder"
        say "Unpacking $1"
        tar -xf "$1" -C "$folder" --strip-components 1 --no-same-owner ||
            fail "$1 cannot be unpacked" "copy it once more; df -h $base"
    fi
    [ -f "$folder/bundle.env" ] || fail "$1 is no bundle" "scripts/make-offline-bundle makes one"
    local status=0
    "$folder/scripts/install.sh" "$2" || status=$?
    [ "$folder" = "$1" ] || rm -rf "$folder"
    exit "$status"
}

check_bundle() {
    local here
    say "Checking the bundle"
    (cd "$root" && sha256sum --check --quiet --strict SHA256SUMS >&2) ||
        fail "the bundle is damaged" "copy it once more"
    here=$(dpkg --print-architecture)
    [ "$here" = "$(bundle_says architecture)" ] ||
        fail "this machine is $here, the bundle is for $(bundle_says architecture)" \
            "make one on a machine of this kind"
    here=$(. /etc/os-release && echo "$ID $VERSION_ID")
    [ "$here" = "$(bundle_says system)" ] ||
        fail "this is $here, the bundle is for $(bundle_says system)" "make one on such a machine"
}

install_from_bundle() {
    install_bundled_packages
    # shellcheck disable=SC2034 # ensure_venv reads it: the wheels are for this one
    PYTHON=python$(bundle_says python)
    ensure_venv
    say "Installing edge $(bundle_says version) from the bundle"
    "$venv/bin/python" -m pip install --quiet --no-index --find-links "$root/wheels" \
        "edge-appliance==$(bundle_says version)" ||
        fail "pip could not install the bundle's wheels" "make the bundle again"
}

# By apt, from the bundle alone: it takes what is missing, and knows how to configure it.
install_bundled_packages() {
    local apt=$base/.apt
    # A bundle for another machine may have been made without them.
    [ -n "$(bundle_says packages)" ] || return 0
    rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    # Without _apt's sandbox: that user may not read what root copied from a stick.
    local options=(
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root
        -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o DPkg::Lock::Timeout=600 # the machine's own updates may be at it
    )
    echo "deb [trusted=yes] file:$root/debs ./" >"$apt/sources.list"
    say "Installing system packages from the bundle"
    # shellcheck disable=SC2046 # words
    if ! apt-get "${options[@]}" update >"$apt/log" 2>&1 ||
        ! DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y \
            --no-install-recommends $(bundle_says packages) >>"$apt/log" 2>&1 </dev/null 6<&-; then
        fail_with_log "apt-get could not install the bundle's packages" "$apt/log" \
            "apt-get --fix-broken install; then run this again"
    fi
    rm -rf "$apt"
}
