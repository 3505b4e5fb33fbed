# What the scripts share. Sourced, not run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything a person may choose.
export FLYNN_DATA_DIR=${FLYNN_DATA_DIR:-/var/lib/flynn}
export CLUSTER_DOMAIN=${CLUSTER_DOMAIN:-localhost}
export HTTP_PORT=${HTTP_PORT:-80}
export HTTPS_PORT=${HTTPS_PORT:-443}
export GIT_PORT=${GIT_PORT:-2222}
profile=${FLYNN_PROFILE:-release}
bin=$top/target/$profile

say() { printf '%s\n' "==> $*"; }
die() {
  printf '%s\n' "$(basename "$0"): $*" >&2
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "this needs root: Docker, the firewall and ports below 1024. Run it as root, for example in a shell of: sudo -i"
}

# Packages a host needs to build and run Flynn, by Debian's and Ubuntu's names.
packages=(
  binutils build-essential ca-certificates curl docker.io git iproute2 iptables jq libprotobuf-dev
  mmdebstrap openssh-client openssl pkg-config procps protobuf-compiler zstd
)

missing_packages() {
  local package
  for package in "$@"; do
    # An engine that is installed another way will do.
    [ "$package" = docker.io ] && command -v dockerd >/dev/null && continue
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      printf '%s\n' "$package"
  done
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" = 0 ] && return
  say "installing ${missing[*]}"
  apt-get update -q >/dev/null ||
    die "the package lists could not be fetched: check this machine's network and /etc/apt/sources.list"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
    die "the packages could not be installed; run: apt-get install ${missing[*]}"
}

engine_runs() { docker info >/dev/null 2>&1; }

# Removes a pid file whose process is not the named program any more: an engine that was killed leaves its pids behind,
# and the next one waits for good for a containerd that is a zombie or somebody else by now.
forget_dead() {
  local file=$1 program=$2
  [ -f "$file" ] || return 0
  case "$(ps -o stat=,comm= -p "$(cat "$file")")" in
    Z*) ;;
    *" $program") return 0 ;;
  esac
  rm -f "$file"
}

# Starts a Docker engine unless one answers.
start_engine() {
  engine_runs && return
  say "starting the Docker engine"
  if [ -d /run/systemd/system ]; then
    systemctl start docker
  else
    forget_dead /var/run/docker.pid dockerd
    forget_dead /var/run/docker/containerd/containerd.pid containerd
    setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
  fi
  local tries
  for ((tries = 0; tries < 120; tries++)); do
    engine_runs && return
    sleep 0.25
  done
  tail -n 20 /var/log/dockerd.log >&2 || true
  die "the Docker engine did not start; see /var/log/dockerd.log or: journalctl -u docker"
}

# Repeats a command, silently, until it succeeds; for a minute at most.
until_succeeds() {
  local end=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

running() { [ "$(docker inspect -f '{{.State.Running}}' "$1" 2>/dev/null)" = true ]; }
