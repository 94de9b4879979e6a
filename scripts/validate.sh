#!/usr/bin/env bash
# Everything that has a validator of its own: shell scripts, Prometheus' configuration, rules and the alerts' unit tests, Grafana's
# dashboards. Needs `make tools`; takes seconds. Ends with an error at the first that is refused.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/tools.sh --check
check() { printf '  %s\n' "$*"; "$@" > "$said" 2>&1 || { cat "$said" >&2; echo "validate: refused by: $*" >&2; exit 1; }; }
said=$(mktemp)
trap 'rm -f "$said"' EXIT
mapfile -t shell_scripts < <(find .ci scripts -type f \( -name '*.sh' -o -path .ci/run \) | sort)
check shellcheck -x "${shell_scripts[@]}"
check promtool check config dashboards/prometheus.yml
check promtool check rules dashboards/rules/recording.yml dashboards/rules/alerts.yml
check promtool test rules dashboards/rules/alerts.test.yml
check scripts/typecheck.sh
[ "${1-}" = --without-deploy ] || check scripts/check-deploy.sh # has an environment of its own, and asks our binaries
echo "  all accepted"
