//! The same files in real tools: promtool, tsc, and a Prometheus that scrapes a real run and a real `beit-shard watch`.
//!
//! `make tools` installs them; BEIT_WITHOUT_TOOLS=1 leaves this module out of `make test`.

use super::{Query, queries, read, rule_queries};
use crate::daemon::TINY;
use crate::house::{command, demo_photos, npm, root, tool};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest wait for anything; all of this shares its cores with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// What Grafana would send, with all jobs, runs and instances chosen.
fn filled(expr: &str, rate_interval: &str) -> String {
    let mut filled = expr.replace("$__rate_interval", rate_interval).replace("$__range", "30s");
    for variable in ["job", "run", "instance"] {
        filled = filled.replace(&format!("\"${variable}\""), "\".+\"");
    }
    assert!(!filled.contains('$'), "{filled}");
    filled
}

#[track_caller]
fn accepted(output: &Output) {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
}

#[test]
fn the_validators_accept_everything() {
    accepted(&Command::new(root().join("scripts/validate.sh")).arg("--without-deploy").output().unwrap());
}

#[test]
fn the_type_check_refuses_what_grafana_does_not_know() {
    npm("@grafana/schema");
    let good = read("dashboards/grafana/run.json");
    let folder = tempfile::tempdir().unwrap();
    let damages = [
        ("enum", "\"graphTooltip\": 1", "\"graphTooltip\": 7"),
        ("number", "\"w\": 3,", "\"w\": \"3\","),
        ("key", "\"editable\": false", "\"editabel\": false"),
        ("annotation", "\"titleFormat\"", "\"titelFormat\""),
        ("threshold", "\"mode\": \"absolute\"", "\"mode\": \"absolut\""),
        ("option", "\"graphMode\": \"area\"", "\"graphMode\": \"aera\""),
        ("custom", "\"drawStyle\": \"line\"", "\"drawStyle\": \"lines\""),
    ];
    let mut check = Command::new(root().join("scripts/typecheck.sh"));
    for (name, from, to) in damages {
        let bad = good.replace(from, to);
        assert_ne!(bad, good, "{from}");
        let path = folder.path().join(format!("bad-{name}.json"));
        std::fs::write(&path, bad).unwrap();
        check.arg(path);
    }
    let output = check.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success());
    for (name, ..) in damages {
        assert!(said.contains(&format!("bad-{name}.ts(")), "{name} was not found:\n{said}");
    }
}

/// As recording rules, in a file that promtool reads.
fn promtool(queries: &[Query]) -> Output {
    let rules = queries.iter().enumerate().map(|(i, query)| {
        let expr = serde_json::to_string(&filled(&query.expr, "1m")).unwrap();
        format!("      - {{ record: \"query:{i}\", expr: {expr} }} # {}\n", query.place)
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.yml");
    std::fs::write(&path, format!("groups:\n  - name: queries\n    rules:\n{}", rules.collect::<String>()))
        .unwrap();
    Command::new(tool("promtool")).args(["check", "rules"]).arg(path).output().unwrap()
}

/// The linter's target-promql-rule, with Prometheus' own parser.
#[test]
fn every_query_is_promql() {
    let all = queries();
    accepted(&promtool(&all));
    for (from, to) in [("rate(", "rte("), ("sum by (", "sum by"), ("{", "{{"), ("[$__rate_interval]", "")] {
        let victim = all
            .iter()
            .find(|query| query.expr.contains("sum by (") && query.expr.contains("(rate("))
            .unwrap();
        let bad = [Query { place: victim.place.clone(), expr: victim.expr.replacen(from, to, 1) }];
        assert!(!promtool(&bad).status.success(), "{} passes", bad[0].expr);
    }
}

/// A process that ends with the test, however that ends.
struct Ward {
    child: Child,
    log: std::path::PathBuf,
}

impl Ward {
    /// Starts it with both its outputs in a file.
    fn start(mut command: Command, home: &Path, name: &str) -> Ward {
        let log = home.join(format!("{name}.log"));
        let stderr = std::fs::File::create(&log).unwrap();
        let stdout = stderr.try_clone().unwrap();
        let child =
            command.current_dir(home).stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap();
        Ward { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The address that follows `before` in what it has said, on either of its outputs.
    #[track_caller]
    fn address(&self, before: &str) -> String {
        let there = || {
            let said = self.said();
            let whole = said.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            let rest = whole.filter_map(|line| line.split_once(before)).map(|(_, rest)| rest).next()?;
            Some(rest.split(['/', ' ']).next().unwrap_or_default().to_owned())
        };
        wait_for("an address", || there().is_some(), || self.said());
        there().unwrap()
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_for(what: &str, mut there: impl FnMut() -> bool, said: impl Fn() -> String) {
    let begun = Instant::now();
    while !there() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}:\n{}", said());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The body of the answer to a GET; empty when nobody answers.
fn get(address: &str, path: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    };
    ask().unwrap_or_default()
}

fn metric(address: &str, series: &str) -> f64 {
    let text = get(address, "/metrics");
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
        .unwrap_or(f64::NAN)
}

struct Prometheus {
    ward: Ward,
    address: String,
}

impl Prometheus {
    /// The repository's configuration and rules, with these targets and an interval of a second.
    fn start(home: &Path, daemon: &str, shard: &str) -> Prometheus {
        let rules = root().join("dashboards/rules");
        let mut config = read("dashboards/prometheus.yml");
        for (from, to) in [
            ("127.0.0.1:9777", daemon),
            ("127.0.0.1:9778", shard),
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("scrape_timeout: 4s", "scrape_timeout: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("- rules/", &format!("- {}/", rules.display())),
        ] {
            assert!(config.contains(from), "{from}");
            config = config.replace(from, to);
        }
        std::fs::write(home.join("prometheus.yml"), config).unwrap();
        let mut command = Command::new(tool("prometheus"));
        command.args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=tsdb",
            "--web.listen-address=127.0.0.1:0",
        ]);
        let ward = Ward::start(command, home, "prometheus");
        let address = ward.address("msg=\"Listening on\" address=");
        wait_for("Prometheus to be ready", || get(&address, "/-/ready").contains("Ready"), || ward.said());
        Prometheus { ward, address }
    }

    /// The `data` of an answer of its API.
    #[track_caller]
    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let escape =
            |text: &str| -> String {
                text.bytes()
                    .map(|b| {
                        if b.is_ascii_alphanumeric() {
                            char::from(b).to_string()
                        } else {
                            format!("%{b:02X}")
                        }
                    })
                    .collect()
            };
        let query: Vec<String> =
            query.iter().map(|(key, value)| format!("{key}={}", escape(value))).collect();
        let body = get(&self.address, &format!("/api/v1/{path}?{}", query.join("&")));
        let answer: Value = serde_json::from_str(&body)
            .unwrap_or_else(|e| panic!("{path}: {e}: {body}\n{}", self.ward.said()));
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// How many finite points a query has between two times, a second apart.
    fn points(&self, expr: &str, from: f64, to: f64) -> usize {
        let (from, to) = (from.to_string(), to.to_string());
        let data = self.ask("query_range", &[("query", expr), ("start", &from), ("end", &to), ("step", "1")]);
        let finite =
            |point: &Value| point[1].as_str().and_then(|v| v.parse::<f64>().ok()).is_some_and(f64::is_finite);
        let series = data["result"].as_array().unwrap();
        series
            .iter()
            .flat_map(|series| series["values"].as_array().unwrap())
            .filter(|point| finite(point))
            .count()
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Queries that have no data in the run below, and why.
fn may_be_empty(query: &Query) -> bool {
    query.expr.contains("beit_daemon_gpu_memory_") // there is no GPU
        || query.place == "instance:beit_trainer_samples:usual_rate5m" // looks back for hours
}

#[test]
fn every_query_returns_data_of_a_real_run() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let photos = home.join("photos");
    std::fs::create_dir(&photos).unwrap();
    let mut there: Vec<_> =
        std::fs::read_dir(demo_photos()).unwrap().map(|item| item.unwrap().path()).collect();
    there.retain(|path| path.extension().is_some_and(|end| end == "jpg"));
    there.sort();
    let add = |path: &Path| std::fs::copy(path, photos.join(path.file_name().unwrap())).unwrap();
    let (last, first) = there.split_last().unwrap();
    assert!(first.iter().map(|path| add(path)).all(|bytes| bytes > 0));

    let watch = command(
        "beit-shard",
        &[
            "watch",
            "photos",
            "--out",
            "photos.shards",
            "--tokenizer",
            "embedded",
            "--views",
            "2",
            "--jobs",
            "1",
            "--settle",
            "1",
            "--rescan",
            "2",
            "--listen",
            "127.0.0.1:0",
        ],
    );
    let watch = Ward::start(watch, home, "watch");
    let shard = watch.address("listening on http://");
    wait_for("the shards", || home.join("photos.shards/manifest.txt").exists(), || watch.said());

    let start = ["start", "--device", "cpu", "--ranks", "2", "--run", "run", "--shards", "photos.shards"];
    let more =
        ["--listen", "127.0.0.1:0", "--steps", "1000000", "--threads", "1", "--set", "save_every_steps=20"];
    let daemon = command("beit-daemon", &[&start[..], &TINY, &more].concat());
    let daemon = Ward::start(daemon, home, "daemon");
    let run = daemon.address("listening on http://");
    let begun = now();
    let prometheus = Prometheus::start(home, &run, &shard);
    let seen = |expr: &str| prometheus.points(expr, begun, now()) > 0;
    let said = || format!("{}\n{}\n{}", daemon.said(), watch.said(), prometheus.ward.said());

    // What happens to a run, each seen by a scrape: it trains, saves, is killed, comes back, rests; and images arrive, one broken.
    wait_for("training to be scraped", || seen("rate(beit_trainer_samples_total[5s]) > 0"), said);
    wait_for("a checkpoint", || seen("beit_trainer_checkpoints_total > 0"), said);
    add(last);
    std::fs::write(photos.join("broken.jpg"), b"no picture").unwrap();
    let facts: Value = serde_json::from_str(&get(&run, "/api/v1/run")).unwrap();
    let killed = Command::new("kill").args(["-9", &facts["worker_pid"].to_string()]).status().unwrap();
    assert!(killed.success());
    wait_for("the restart", || seen("increase(beit_daemon_restarts_total{cause=\"signal\"}[5s]) > 0"), said);
    let trained = metric(&run, "beit_trainer_samples_total");
    wait_for("the next worker", || metric(&run, "beit_trainer_samples_total") > trained + 40.0, said);
    wait_for("the last photos", || seen("rate(beit_shard_samples_total[5s]) > 0"), said);
    for order in ["pause", "resume"] {
        accepted(&command("beit-daemon", &[order, "--run", "run"]).current_dir(home).output().unwrap());
        std::thread::sleep(Duration::from_secs(3));
    }

    let to = now();
    let every: Vec<Query> =
        queries().into_iter().chain(rule_queries().into_iter().filter(|q| q.place.contains(':'))).collect();
    let empty: Vec<String> = every
        .iter()
        .filter(|query| !may_be_empty(query) && prometheus.points(&filled(&query.expr, "5s"), begun, to) == 0)
        .map(|query| format!("{}: {}", query.place, filled(&query.expr, "5s")))
        .collect();
    assert!(
        empty.is_empty(),
        "{} of {} queries have no data:\n{}",
        empty.len(),
        every.len(),
        empty.join("\n")
    );

    let groups = prometheus.ask("rules", &[]);
    let rules: Vec<&Value> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert_eq!(rules.len(), rule_queries().len());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
