#!/usr/bin/env bash
# Checks the examples in docs/deploy with the validators of those who will read them:
#   systemd     systemd-analyze verify, and security with a threshold      (skipped, and said so, where there is no systemd-analyze)
#   Slurm       bash -n, shellcheck, and every #SBATCH line once
#   Kubernetes  kubernetes-validate (the API's own schemas, strictly), kubeflow-training's models, the Prometheus operator's models
# Makes a virtual environment of its own (.deps/deploy, 200 MB); offline once that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
deploy=docs/deploy
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'check-deploy: %s\n' "$*" >&2; exit 1; }

installed() { # COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "$2" >/dev/null 2>&1 ||
    { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "$2" >/dev/null; }
}

say "systemd"
if command -v systemd-analyze >/dev/null 2>&1; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  # The unit names the binary where it will be installed; here something executable has to stand in for it.
  sed "s|/usr/local/bin/beit-daemon|/bin/true|; s|^Documentation=.*||" "$deploy/systemd/beit-daemon@.service" >"$work/beit-daemon@.service"
  said=$(systemd-analyze verify --man=no "$work/beit-daemon@.service" 2>&1) || die "$said"
  said=$(grep -F "$work" <<<"$said" || true) # of the machine's own units it may complain as it likes
  [ -z "$said" ] || die "$said"
  cp "$work/beit-daemon@.service" "$work/beit-daemon@x.service"
  systemd-analyze security --offline=true --threshold=30 --no-pager "$work/beit-daemon@x.service" | tail -1
else
  echo "  not checked: systemd-analyze is not here"
fi

say "Slurm"
installed shellcheck shellcheck || die "shellcheck is missing (Debian: apt-get install shellcheck)"
for script in "$deploy"/slurm/*.sbatch; do
  bash -n "$script"
  shellcheck "$script"
  twice=$(grep -oE '^#SBATCH --[a-z-]+' "$script" | sort | uniq -d)
  [ -z "$twice" ] || die "$script says twice: $twice"
  # Slurm stops reading options at the first command.
  late=$(sed -n '/^[^#]/,$p' "$script" | grep '^#SBATCH' || true)
  [ -z "$late" ] || die "$script: Slurm does not see: $late"
  echo "  $script"
done

say "Kubernetes"
python=.deps/deploy/bin/python
stamp=.deps/deploy/done-2
if [ ! -f "$stamp" ]; then
  rm -rf .deps/deploy
  python3 -m venv .deps/deploy
  "$python" -m pip install -q --disable-pip-version-check kubernetes-validate==1.37.0 kubeflow-training==1.9.4 \
    cloudcoil.models.prometheus_operator==0.80.1.0 pyyaml
  touch "$stamp"
fi
"$python" scripts/check-manifests.py "$deploy"/kubernetes/*.yaml
