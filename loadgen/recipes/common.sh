#!/bin/sh
# A recipe sets up one relay for a comparison. This part stands before each of them.
#
#   recipe.sh install                      get the software; starts nothing, needs root and the registries
#   recipe.sh version                      one line
#   recipe.sh run PORT SINK_PORT DIR       become the relay: in the foreground, listening on 127.0.0.1:PORT, passing all
#                                          mail on to 127.0.0.1:SINK_PORT, with every file of it in DIR
#
# The process that is started stays the relay's first one (exec), so that SIGTERM to it ends the relay.
set -eu
verb=${1:-} port=${2:-} sink_port=${3:-} dir=${4:-}
cache=${LOADGEN_RECIPES:-/var/cache/loadgen}
export DEBIAN_FRONTEND=noninteractive

# Relays that cannot be installed side by side are unpacked beside the system.
unpack() {
  into=$1; shift
  mkdir -p "$cache/packages" "$into"
  ( cd "$cache/packages" && rm -f -- *.deb && apt-get download "$@" >&2 && for package in *.deb; do dpkg -x "$package" "$into"; done )
}

# A system user without a home or a shell.
user() {
  id "$1" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$1"
}

# DIR/tls.key and DIR/tls.crt, of the kind that Ringpost makes for itself.
certificate() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=relay.example.com \
    -keyout "$dir/tls.key" -out "$dir/tls.crt" 2>/dev/null
}

need() {
  [ -e "$1" ] || { echo "not installed ($1 is absent): run loadgen compare with --install" >&2; exit 1; }
}
