# What the scripts share. Sourced, not run.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "==> $*"; }
die() {
  printf '%s\n' "$(basename "$0"): $*" >&2
  exit 1
}

# Everything a person may choose. What was chosen once is kept beside the data: a cluster cannot change it, and nobody has
# to type it again.
export FLYNN_DATA_DIR=${FLYNN_DATA_DIR:-/var/lib/flynn}
choices=$FLYNN_DATA_DIR/choices
choose() { # name, default
  local name=$1 kept
  kept=$(sed -n "s/^$name=//p" "$choices" 2>/dev/null | tail -n 1) || true
  [ -z "$kept" ] || [ -z "${!name:-}" ] || [ "${!name}" = "$kept" ] ||
    die "this cluster was set up with $name=$kept, which cannot be changed to ${!name}. Leave $name out,
or set up another cluster with another FLYNN_DATA_DIR."
  printf -v "$name" '%s' "${!name:-${kept:-$2}}"
  export "${name?}"
}
choose CLUSTER_DOMAIN localhost
choose HTTP_PORT 80
choose HTTPS_PORT 443
choose GIT_PORT 2222
profile=${FLYNN_PROFILE:-release}
bin=$top/target/$profile

# Lies in the data folder of a cluster that the tests made.
tests_mark=$FLYNN_DATA_DIR/made-by-script-test

# Removes what earlier tests left; refuses a machine that holds a cluster of somebody's own.
take_machine_for_tests() {
  if [ -f "$FLYNN_DATA_DIR/host/host.json" ] && [ ! -f "$tests_mark" ]; then
    die "this machine holds a cluster in $FLYNN_DATA_DIR, and the tests would use and remove it. Run them elsewhere, or
remove the cluster with all its data first: script/down --purge"
  fi
  [ ! -f "$tests_mark" ] || "$top/script/down" --purge
}

keep_choices() {
  [ ! -f "$choices" ] || return 0
  printf '%s\n' "CLUSTER_DOMAIN=$CLUSTER_DOMAIN" "HTTP_PORT=$HTTP_PORT" "HTTPS_PORT=$HTTPS_PORT" "GIT_PORT=$GIT_PORT" \
    >"$choices.new"
  mv "$choices.new" "$choices"
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

# The same for packages whose services shall not run: their programs are started with configurations of our own.
install_without_services() {
  local policy=/usr/sbin/policy-rc.d
  [ -n "$(missing_packages "$@")" ] || return 0
  if [ -e "$policy" ]; then
    install_packages "$@"
    return
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  # Also when the packages could not be installed, which ends the shell.
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  install_packages "$@"
  rm -f "$policy"
  trap - EXIT
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

# --- Steps of bringing a cluster up. Each asks first whether it is done. ---

build() {
  say "building (profile $profile)"
  local targets=--bins
  # Tests bring features of their own: building what they build keeps every dependency compiled once.
  [ "$profile" != ci ] || targets=--all-targets
  (cd "$top" && cargo build --quiet --profile "$profile" --workspace "$targets" --locked)
}

# Whether flynn-host runs, of the image that is here.
daemon_is_current() {
  running flynn-host &&
    [ "$(docker inspect -f '{{.Image}}' flynn-host)" = "$(docker image inspect -f '{{.Id}}' flynn/host)" ]
}

# Open files for flynn-host: each connection of its tunnel is one. No more than this machine lets anybody have.
open_files() {
  local most
  most=$(ulimit -H -n)
  if [ "$most" = unlimited ] || [ "$most" -gt 524288 ]; then most=524288; fi
  printf '%s' "$most"
}

# Starts flynn-host, which uses the engine of that socket, and waits until it answers. One of an older image is replaced;
# the jobs go on running.
start_daemon() {
  local socket=$1
  if ! daemon_is_current; then
    docker stop -t 30 flynn-host >/dev/null 2>&1 || true
    docker rm -f flynn-host >/dev/null 2>&1 || true
    docker run -d --name flynn-host --restart always --network host --pid host \
      --cap-add NET_ADMIN --cap-add NET_RAW --cap-add SYS_PTRACE --security-opt apparmor=unconfined \
      --ulimit "nofile=$(open_files):$(open_files)" -v "$socket:/var/run/docker.sock" -v "$FLYNN_DATA_DIR:$FLYNN_DATA_DIR" \
      -e FLYNN_DATA_DIR -e "FLYNN_PUBLIC_PORTS=$HTTP_PORT,$HTTPS_PORT,$GIT_PORT" flynn/host daemon >/dev/null
  fi
  local tries
  for ((tries = 0; tries < 240; tries++)); do
    curl -fs -o /dev/null -m 2 http://127.0.0.1:1113/ping && return
    sleep 0.25
  done
  docker logs --tail 20 flynn-host >&2
  die "flynn-host does not answer; its last words are above"
}

# Brings layer 1 up on a cluster of so many hosts.
bootstrap() {
  local hosts=$1 from
  from=$(date +%s%N)
  say "bringing layer 1 up"
  "$bin/flynn-bootstrap" --data-dir "$FLYNN_DATA_DIR" --min-hosts "$hosts" "$top/bootstrap/manifest.json" >"$FLYNN_DATA_DIR/bootstrap.log" || {
    tail -n 5 "$FLYNN_DATA_DIR/bootstrap.log" >&2
    die "bootstrap did not finish; run this again and it goes on where it was"
  }
  chmod 600 "$FLYNN_DATA_DIR/bootstrap.log"
  say "layer 1 is up, after $((($(date +%s%N) - from) / 1000000)) ms"
}

result() { jq -r ".[\"$1\"].result.$2" "$FLYNN_DATA_DIR/bootstrap/state.json"; }

# Lets the CLI and ssh know the cluster.
set_up_cli() {
  local url=https://controller.$CLUSTER_DOMAIN pin key
  [ "$HTTPS_PORT" = 443 ] || url=$url:$HTTPS_PORT
  pin=$(result controller-cert pin) key=$(result controller-key data)
  if ! grep -qsF "$pin" "${FLYNNRC:-$HOME/.flynnrc}"; then
    flynn server-add -f -g "$CLUSTER_DOMAIN:$GIT_PORT" -p "$pin" "${CLUSTER_NAME:-default}" "$url" "$key" ||
      die "the cluster could not be added to ${FLYNNRC:-~/.flynnrc}; an older entry may be in its way"
  fi
  mkdir -p -m 700 ~/.ssh
  [ -f ~/.ssh/id_ed25519.pub ] || [ -f ~/.ssh/id_rsa.pub ] || [ -f ~/.ssh/id_ecdsa.pub ] ||
    ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
  local public
  public=$(result gitreceive-key ed25519_public)
  public=$(printf '%s' "$public" | cut -d ' ' -f 1,2)
  local name="[$CLUSTER_DOMAIN]:$GIT_PORT"
  [ "$GIT_PORT" != 22 ] || name=$CLUSTER_DOMAIN
  if ! grep -qsF "$name $public" ~/.ssh/known_hosts; then
    [ ! -f ~/.ssh/known_hosts ] || ssh-keygen -q -R "$name" >/dev/null 2>&1 || true
    printf '%s\n' "$name $public" >>~/.ssh/known_hosts
  fi
  until_succeeds flynn apps || die "the controller does not answer at $url; see: docker logs flynn-host"
  [ -n "$(flynn keys)" ] || flynn key-add
}

example_answers() {
  curl -fs -o /dev/null -m 5 --resolve "node-demo.$CLUSTER_DOMAIN:$HTTP_PORT:127.0.0.1" \
    "http://node-demo.$CLUSTER_DOMAIN:$HTTP_PORT/"
}

deploy_example() {
  # Once only: afterwards it belongs to whoever uses this cluster.
  local deployed=$FLYNN_DATA_DIR/example-deployed
  if [ -f "$deployed" ]; then
    until_succeeds example_answers || say "the example app does not answer; see: flynn -a node-demo ps"
    return
  fi
  say "deploying the example app"
  local work
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  cp -r "$top/examples/node-demo/." "$work"
  cd "$work"
  git init -q -b master
  git add -A
  git -c user.name=Flynn -c user.email=flynn@localhost commit -q -m "The example app"
  if flynn apps | grep -qw node-demo; then
    git remote add flynn "ssh://git@$CLUSTER_DOMAIN:$GIT_PORT/node-demo.git"
  else
    flynn create -y node-demo
  fi
  git push -q flynn master
  cd "$top"
  touch "$deployed"
}
