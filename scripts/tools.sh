#!/usr/bin/env bash
# What `make test`, `make validate` and `make observe` need beside a build: Debian's prometheus (with promtool), chromium with its
# driver, shellcheck and node with npm, and, in .deps/npm, the npm packages that tests/npm/package-lock.json pins.
# Idempotent; safe to interrupt; offline once done.
#   scripts/tools.sh            install what is missing
#   scripts/tools.sh --check    only say what is missing; exit code 1 if something is
set -euo pipefail
cd "$(dirname "$0")/.."
npm_home=.deps/npm
way_out="or leave out the tests that need them: BEIT_WITHOUT_TOOLS=1 make test"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
die() { printf 'tools: %s\n' "$*" >&2; exit 1; }

# Debian's names of the packages whose commands are not there.
missing_packages() {
  local pair
  for pair in promtool:prometheus prometheus:prometheus chromium:chromium chromedriver:chromium-driver shellcheck:shellcheck \
    node:nodejs npm:npm curl:curl; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || echo "${pair#*:}"
  done | sort -u
}

npm_is_there() { cmp -s tests/npm/package-lock.json "$npm_home/package-lock.json" && [ -f "$npm_home/complete" ]; }

debian_packages() {
  local packages
  mapfile -t packages < <(missing_packages)
  [ ${#packages[@]} -eq 0 ] && return
  if ! command -v apt-get >/dev/null 2>&1; then
    die "missing, by their Debian names: ${packages[*]}. Install them with your system's package manager and run this again, $way_out"
  elif [ "$(id -u)" != 0 ]; then
    die "missing: ${packages[*]}. Install them (sudo apt-get install --no-install-recommends ${packages[*]}) and run this again, $way_out"
  fi
  say "installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local had_systemd_prometheus=no
  [ -e /lib/systemd/system/prometheus.service ] && had_systemd_prometheus=yes
  # A browser without a font draws boxes.
  apt-get install -y -q --no-install-recommends "${packages[@]}" fonts-dejavu-core >/dev/null 2>&1 ||
    { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${packages[@]}" fonts-dejavu-core >/dev/null; } ||
    die "apt-get could not install ${packages[*]}; install them by hand and run this again, $way_out"
  if [ "$had_systemd_prometheus" = no ] && [ -d /run/systemd/system ]; then
    say "Debian's prometheus also runs as a service on port 9090 now; if you don't want it: systemctl disable --now prometheus"
  fi
}

npm_packages() {
  npm_is_there && return
  say "fetching the npm packages of tests/npm/package.json (30 MB, once)"
  rm -rf "$npm_home" "$npm_home.new"
  mkdir -p "$npm_home.new"
  cp tests/npm/package.json tests/npm/package-lock.json "$npm_home.new/"
  # No package's own scripts run; every file is held against the hash in the lock file.
  npm ci --prefix "$npm_home.new" --ignore-scripts --no-audit --no-fund --loglevel=error >&2 ||
    die "npm could not fetch the packages of tests/npm/package-lock.json (is the package registry reachable?); run this again, $way_out"
  touch "$npm_home.new/complete"
  mv "$npm_home.new" "$npm_home"
}

case "${1-}" in
  "") debian_packages; npm_packages ;;
  --check)
    missing=$(missing_packages | tr '\n' ' ')
    npm_is_there || missing="${missing}npm-packages "
    [ -z "$missing" ] || die "missing: ${missing% }. \`make tools\` installs what is missing, $way_out"
    ;;
  *) sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,6p >&2; exit 2 ;;
esac
