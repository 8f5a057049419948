# shellcheck shell=bash
# What the service needs of the machine beside the program: its user, its folders, a configuration, a
# model, the first keys. Sourced by install.sh; nothing that is there is changed.

credentials=/etc/edge/credentials

# What goes before a command that the service's user is to run, with its state.
as_edge=(setpriv --reuid=edge --regid=edge --init-groups env "HOME=$state" "EDGE_STATE_DIR=$state")

ensure_user() {
    local group
    # For the GPU. The unit names both, and systemd refuses unknown ones.
    for group in video render; do groupadd --system --force "$group"; done
    if ! id edge >/dev/null 2>&1; then
        say "Adding the system user edge"
        useradd --system --user-group --home-dir "$state" --no-create-home \
            --shell /usr/sbin/nologin edge
    fi
    usermod --append --groups video,render edge
    install -d -o edge -g edge -m 0700 "$state"
    install -d -m 0755 /etc/edge
    install -d -o root -g edge -m 0750 "$credentials"
}

update_keys=/etc/edge/update-keys

has_update_keys() { compgen -G "$update_keys/*.pem" >/dev/null; }

# Who may sign software for this machine is decided once: by whoever installs the first signed bundle
# here, as root. Later ones change nothing.
ensure_update_keys() {
    local key
    [ "$(source_kind)" = bundle ] && [ -d "$root/update-keys" ] && [ ! -e "$update_keys" ] || return 0
    rm -rf "$update_keys.new"
    mkdir -m 0755 "$update_keys.new"
    for key in "$root"/update-keys/*.pem; do
        install -m 0644 "$key" "$update_keys.new/"
        say "From now on edge update trusts the key $(fingerprint "$key")"
    done
    sync
    mv "$update_keys.new" "$update_keys"
}

fingerprint() { # FILE, as edge bundle keygen shows it
    echo "sha256:$(openssl pkey -pubin -in "$1" -outform DER | sha256sum | cut -d' ' -f1)"
}

ensure_config() {
    if [ -e /etc/edge/edge.yaml ]; then
        "$venv/bin/edge" config check /etc/edge/edge.yaml >&2 ||
            fail "the configuration does not fit this version" "mend it, then run this again"
        return
    fi
    say "Writing /etc/edge/edge.yaml"
    first_config >/etc/edge/edge.yaml.new
    chmod 0644 /etc/edge/edge.yaml.new # no secrets in it: it names files that hold them
    mv /etc/edge/edge.yaml.new /etc/edge/edge.yaml
}

first_config() {
    cat <<'YAML'
# The edge appliance. What is left out has its default: `edge config show` prints everything in
# force, `edge config check` tells what is wrong. After a change: edge-install

# device:
#   id: press-07          # default: the host name
#   site: plant-a

# http:
#   host: 127.0.0.1       # 0.0.0.0 lets the network in, with keys
#   port: 8080

# models:
#   default: smollm2-135m-instruct
YAML
    [ -f "$credentials/mqtt.password" ] || return 0
    printf '\nmqtt:\n  username: edge\n'
    [ "$(systemd_version)" -ge 247 ] ||
        printf '  password_file: %s\n' "$credentials/mqtt.password"
}

# The models of a bundle; without one the daemon fetches the default model when it starts.
ensure_model() {
    local file name
    for file in "$root"/models/*.gguf; do
        [ -f "$file" ] && [ "$(source_kind)" = bundle ] || continue
        name=$(basename "$file" .gguf)
        ! EDGE_STATE_DIR=$state "$venv/bin/edge" models show "$name" --json 2>/dev/null |
            grep -q '"installed": true' || continue
        say "Installing the model $name"
        EDGE_STATE_DIR=$state "$venv/bin/edge" models import "$file" --name "$name" >&2 ||
            fail "the model $name could not be installed" "df -h $state"
    done
    [ ! -d "$state/models" ] || chown -R edge:edge "$state/models"
}

# One that may do everything, and one for the first client; the broker knows that one too. Printed
# now or never: only what they hash to is kept.
ensure_first_keys() {
    local admin client
    [ ! -d "$state/keys" ] || [ -f "$state/keys/.first" ] || return 0
    install -d -o edge -g edge -m 0700 "$state/keys"
    # Found again by the next run, should this one be cut before they are shown.
    touch "$state/keys/.first"
    "${as_edge[@]}" "$venv/bin/edge" keys rm admin >/dev/null 2>&1 || true
    "${as_edge[@]}" "$venv/bin/edge" keys rm client >/dev/null 2>&1 || true
    admin=$(new_key admin --admin)
    client=$(new_key client)
    ensure_broker_user client "$client"
    cat <<KEYS
The first keys, shown only now:

    admin   $admin   (also for /admin and /metrics)
    client  $client   (over MQTT: user client, with this as the password)

HTTP asks for one as soon as http.host is not this machine alone; more by: edge keys add NAME
KEYS
    rm -f "$state/keys/.first"
}

new_key() { # NAME [OPTION…]
    "${as_edge[@]}" "$venv/bin/edge" keys add "$@" --json |
        "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["key"])' ||
        fail "the key $1 could not be made" "edge keys add $1"
}
