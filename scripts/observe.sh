#!/usr/bin/env bash
# A demo run with a real Prometheus beside it: something to look at, and to try dashboards and alerts on. A tiny BEiT trains on the
# demo photos for hours, `beit-shard watch` packs what is put into demo/observe/photos, Prometheus scrapes both with the
# configuration, rules and alerts of dashboards/. Everything lands in demo/observe; Ctrl-C ends all that was started.
#   OBSERVE_SECONDS=60 scripts/observe.sh      end by itself after a minute, with an error if Prometheus did not see both
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$root/target/release
out=demo/observe
pids=()

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { printf 'observe: %s\n' "$*" >&2; exit 1; }
# Last started, first ended: a daemon saves before it goes.
cleanup() {
  trap '' INT TERM
  local i
  for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
    kill -TERM "${pids[i]}" 2>/dev/null && wait "${pids[i]}" 2>/dev/null
  done
  return 0
}
trap cleanup EXIT
trap 'exit 0' INT TERM

# The port it has by habit if that is free, any other if not.
habit_or_any() {
  python3 -c "
import socket, sys
try: socket.create_server(('127.0.0.1', int(sys.argv[1]))).close(); print('127.0.0.1:' + sys.argv[1])
except OSError: print('127.0.0.1:0')" "$1"
}
# Waits until a file has a line, and prints what the expression catches in it.
caught() {
  local pid=$1 file=$2 expression=$3 found
  for _ in $(seq 600); do
    found=$(sed -n "s,$expression,\1,p" "$file" 2> /dev/null | head -1)
    [ -n "$found" ] && { echo "$found"; return; }
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  cat "$file" "${file%.out}.log" >&2 2>/dev/null || true
  die "no address in $file"
}

rm -rf "$out" # from an earlier time, maybe of another version
mkdir -p "$out/photos"
cp demo-photos/*.jpg "$out/photos/"

say "1. Pack the demo photos, and whatever is put beside them"
"$bin/beit-shard" watch "$out/photos" --out "$out/photos.shards" --tokenizer embedded --views 8 --settle 1 \
  --listen "$(habit_or_any 9778)" > "$out/watch.out" 2> "$out/watch.log" &
pids+=($!)
shard=$(caught "$!" "$out/watch.log" '^listening on http://\([0-9.:]*\).*')
until [ -f "$out/photos.shards/manifest.txt" ]; do
  kill -0 "${pids[0]}" 2>/dev/null || { cat "$out/watch.log" >&2; die "packing ended early"; }
  sleep 0.2
done

say "2. Train a tiny BEiT on them"
nice -n 5 "$bin/beit-daemon" start --device cpu --ranks 2 --recipe pretrain-tiny-cpu --steps 200000 --set save_every_steps=50 \
  --shards "$out/photos.shards" --run "$out/run" --listen "$(habit_or_any 9777)" > "$out/daemon.out" 2> "$out/daemon.log" &
pids+=($!)
daemon=$(caught "$!" "$out/daemon.out" '^listening on http://\([0-9.:]*\).*')

say "3. Watch both with Prometheus"
sed -e "s,127.0.0.1:9777,$daemon," -e "s,127.0.0.1:9778,$shard," -e "s,- rules/,- $root/dashboards/rules/," \
  dashboards/prometheus.yml > "$out/prometheus.yml"
prometheus --config.file="$out/prometheus.yml" --storage.tsdb.path="$out/prometheus" --web.listen-address="$(habit_or_any 9090)" \
  2> "$out/prometheus.log" &
pids+=($!)
prometheus=$(caught "$!" "$out/prometheus.log" '.*msg="Listening on" address=\([0-9.:]*\).*')
until curl -fsS "http://$prometheus/-/ready" > /dev/null 2>&1; do
  kill -0 "${pids[2]}" 2>/dev/null || { cat "$out/prometheus.log" >&2; die "Prometheus ended early"; }
  sleep 0.2
done

cat <<EOT

  The run's page     http://$daemon/            its metrics  http://$daemon/metrics
  The packing        http://$shard/metrics
  Prometheus         http://$prometheus/graph   /targets  /rules  /alerts

  Dashboards, in a Grafana of yours (version 11 or newer):
    Connections > Add new connection > Prometheus, URL http://$prometheus, "Save & test"; then
    Dashboards > New > Import, once for each of
$(for file in dashboards/grafana/*.json; do echo "      $root/$file"; done)
  or all at once, with a Grafana that starts on this machine:
    BEIT_PROMETHEUS=http://$prometheus BEIT_DASHBOARDS=$root/dashboards/grafana \\
      GF_PATHS_PROVISIONING=$root/dashboards/grafana/provisioning grafana server --homepath /usr/share/grafana

  Try, in another terminal:
    kill -9 \$(curl -s http://$daemon/api/v1/run | grep -o '"worker_pid":[0-9]*' | grep -o '[0-9]*')   # the run comes back; a red line
    target/release/beit-daemon pause --run $out/run                                  # goodput turns grey; resume ends it
    cp SOME.jpg $out/photos/                                                         # is packed, and trained on from the next epoch

  docs/observe.md explains the dashboards and what to do about each alert. Ctrl-C ends it all.
EOT

if [ -n "${OBSERVE_SECONDS-}" ]; then
  sleep "$OBSERVE_SECONDS" &
else
  sleep infinity &
fi
pids+=($!)
wait -n || true # of the timer, or of what should not have ended
for i in 0 1 2; do
  kill -0 "${pids[i]}" 2>/dev/null || { tail -5 "$out"/{watch,daemon,prometheus}.log >&2; die "a part of it has ended; the logs are in $out/"; }
done
[ -z "${OBSERVE_SECONDS-}" ] && exit 0
asked() { curl -fsS "http://$prometheus/api/v1/query" --data-urlencode "query=$1" | sed -n 's/.*"value":\[[^,]*,"\([^"]*\)".*/\1/p'; }
up=$(asked 'sum(up)') series=$(asked 'count({__name__=~"beit_.+"})') step=$(asked 'max(beit_trainer_step)')
say "Prometheus saw ${up:-0} of 2 targets, ${series:-0} series of ours, and training at step ${step:-0}"
if [ "${up:-0}" != 2 ] || [ "${step:-0}" -le 0 ]; then
  die "that is not what it should have seen; the logs are in $out/"
fi
