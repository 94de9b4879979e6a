#!/usr/bin/env bash
# Pictures of Prometheus' own graph page, in a headless Chromium: what a run looked like. Needs `make tools`.
#   scripts/graphs.sh http://127.0.0.1:9090 OUT_FOLDER            the last 30 minutes
#   scripts/graphs.sh http://127.0.0.1:9090 OUT_FOLDER 10m        the last ten
#   scripts/graphs.sh http://127.0.0.1:9090 OUT_FOLDER 30m loss restarts …      only these
#   UNTIL='2026-11-25 05:32:00' scripts/graphs.sh …                             up to then (UTC), not now
set -euo pipefail
[ $# -ge 2 ] || { sed -n 's/^# \{0,1\}//p' "$0" | sed -n 2,6p >&2; exit 2; }
prometheus=${1%/}
out=$2
range=${3:-30m}
end=${UNTIL:+&g0.end_input=${UNTIL/ /%20}}
shift $(($# < 3 ? $# : 3))
browser=$(command -v chromium || command -v google-chrome || true)
[ -n "$browser" ] || { echo "graphs: no chromium; \`make tools\` installs it" >&2; exit 2; }
curl -fsS "$prometheus/-/ready" > /dev/null || { echo "graphs: no Prometheus answers at $prometheus" >&2; exit 2; }
mkdir -p "$out"
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT

# name, stacked (1) or not (0), expression
graphs() {
  cat <<'LIST'
loss 0 beit_trainer_loss
accuracy 0 beit_trainer_mlm_acc_ratio
samples-per-second 0 sum by (instance) (rate(beit_trainer_samples_total[1m]))
step-time 0 histogram_quantile(0.99, sum by (le) (rate(beit_trainer_step_duration_seconds_bucket[1m])))
where-the-time-goes 1 sum by (class) (rate(beit_daemon_time_seconds_total[1m]))
waiting-for-data 0 rate(beit_trainer_data_wait_seconds_sum[1m])
restarts 0 sum by (cause) (beit_daemon_restarts_total)
checkpoint-age 0 beit_trainer_checkpoint_age_seconds
step 0 beit_trainer_step
memory 0 beit_daemon_process_resident_memory_bytes
corrupt-samples 0 sum by (reason) (beit_loader_corrupt_samples_total)
items-per-second 0 sum by (stage) (rate(beit_pipeline_items_out_total[1m]))
LIST
}

wanted=" $* "
while read -r name stacked expression; do
  [ $# -eq 0 ] || [[ "$wanted" == *" $name "* ]] || continue
  query=$(python3 -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1]))' "$expression")
  "$browser" --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update \
    --disable-sync --hide-scrollbars --user-data-dir="$profile" --window-size=1100,960 --virtual-time-budget=10000 --screenshot="$out/$name.png" \
    "$prometheus/graph?g0.expr=$query&g0.tab=0&g0.stacked=$stacked&g0.range_input=$range$end" 2> "$profile/said" ||
    { cat "$profile/said" >&2; echo "graphs: chromium could not draw $name" >&2; exit 1; }
  [ -s "$out/$name.png" ] || { cat "$profile/said" >&2; echo "graphs: no picture of $name" >&2; exit 1; }
  echo "  $out/$name.png"
done < <(graphs)
