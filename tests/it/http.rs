//! The API of a real run, asked by friends and by others.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, home, kill};
use crate::house::root;
use crate::schema::check;

/// How long an answer may take while others do their worst, on a machine that has other things to do.
const ANSWER: Duration = Duration::from_secs(15);

/// Status and body of a GET.
#[track_caller]
fn get(daemon: &Daemon, path: &str) -> (u16, Value) {
    let answer = daemon.ask(&format!("GET {path}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"));
    (head[9..12].parse().unwrap(), body)
}

fn connect(address: &str, say: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    // Who is refused early may not get it all out.
    let _ = stream.write_all(say);
    stream
}

/// One stream of events, opened anew.
struct Watch {
    lines: BufReader<TcpStream>,
}

impl Watch {
    fn open(daemon: &Daemon, query: &str, headers: &str) -> Watch {
        let request = format!("GET /api/v1/events{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        Watch { lines: BufReader::new(connect(&daemon.address, request.as_bytes())) }
    }

    /// Id, kind and data of the next event.
    #[track_caller]
    fn next(&mut self) -> (u64, String, String) {
        let (mut id, mut kind) = (0, String::new());
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "the stream ended");
            match line.trim_end().split_once(": ") {
                Some(("event", word)) => kind = word.to_owned(),
                Some(("id", number)) => id = number.parse().unwrap(),
                Some(("data", data)) => return (id, kind, data.to_owned()),
                _ => {}
            }
        }
    }

    /// The next event of a kind, within a hundred.
    #[track_caller]
    fn next_of(&mut self, kind: &str) -> (u64, String) {
        let mut events = (0..100).map(|_| self.next());
        let found = events.find(|(_, found, _)| found == kind);
        found.map(|(id, _, data)| (id, data)).unwrap_or_else(|| panic!("no {kind} among a hundred events"))
    }
}

fn file_descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap().count()
}

fn resident_mb(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn two_hundred_hostile_connections_neither_stop_nor_hide_a_run() {
    let home = home();
    let daemon = Daemon::start(home.path(), &["--set", "save_every_steps=1000"]);
    daemon.wait_for_step(3.0);
    let (descriptors, memory, step) =
        (file_descriptors(&daemon), resident_mb(&daemon), daemon.metric("beit_trainer_step"));
    let headers = "HTTP/1.1\r\nHost: localhost\r\n";

    // 50 that never end their headers; some drip on.
    let slow: Vec<TcpStream> =
        (0..50).map(|_| connect(&daemon.address, format!("GET /metrics {headers}X-").as_bytes())).collect();
    // 50 that ask for much, over and over, and never read a byte.
    let greedy = format!("GET /api/v1/log?lines=1000 {headers}\r\nGET /metrics {headers}\r\n").repeat(400);
    let deaf: Vec<TcpStream> = (0..50).map(|_| connect(&daemon.address, greedy.as_bytes())).collect();
    // 30 streams that nobody reads, and 10 too many.
    let events = format!("GET /api/v1/events {headers}\r\n");
    let watchers: Vec<TcpStream> = (0..40).map(|_| connect(&daemon.address, events.as_bytes())).collect();
    // 40 that talk nonsense.
    let nonsense: Vec<Vec<u8>> = vec![
        vec![0; 64 << 10],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        format!("GET /{} {headers}\r\n", "a".repeat(1 << 20)).into_bytes(),
        format!("GET / {headers}X: {}\r\n\r\n", "y".repeat(1 << 20)).into_bytes(),
        format!("GET / {headers}{}\r\n", "X: y\r\n".repeat(10_000)).into_bytes(),
        format!("POST /api/v1/stop {headers}Content-Length: 99999999999999\r\n\r\n").into_bytes(),
        format!("POST /api/v1/stop {headers}Transfer-Encoding: chunked\r\n\r\n{}", "1000\r\n".repeat(99))
            .into_bytes(),
        format!("POST /api/v1/stop {headers}Content-Length: -1\r\n\r\n").into_bytes(),
        format!("POST /api/v1/stop {headers}Authorization: Bearer {}\r\n\r\n", "0".repeat(48)).into_bytes(),
        format!("GET /api/v1/samples/../../../../etc/passwd {headers}\r\n").into_bytes(),
    ];
    let mad: Vec<TcpStream> =
        nonsense.iter().cycle().take(40).map(|bytes| connect(&daemon.address, bytes)).collect();
    // 20 that hammer.
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let paths = ["/metrics", "/api/v1/run", "/api/v1/history", "/"];
            let mut streams: Vec<Option<TcpStream>> = (0..20).map(|_| None).collect();
            while !over.load(Relaxed) {
                for (number, slot) in streams.iter_mut().enumerate() {
                    let request = format!("GET {} {headers}\r\n", paths[number % paths.len()]);
                    let stream = slot.get_or_insert_with(|| connect(&daemon.address, b""));
                    let mut bytes = [0; 4096];
                    match stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut bytes)) {
                        Ok(1..) => answered.fetch_add(1, Relaxed),
                        _ => {
                            *slot = None;
                            continue;
                        }
                    };
                }
            }
        });
        daemon.wait_for("twenty more steps and a hundred answers meanwhile", |daemon| {
            for stream in slow.iter().step_by(5) {
                let _ = (&*stream).write_all(b"x");
            }
            let begun = Instant::now();
            assert!(daemon.ask("GET /healthz").starts_with("HTTP/1.1 200"));
            let done = daemon.metric("beit_trainer_step") >= step + 20.0 && answered.load(Relaxed) > 100;
            assert!(begun.elapsed() < ANSWER, "two answers took {:?}", begun.elapsed());
            done
        });
        over.store(true, Relaxed);
    });
    assert!(daemon.ask("GET /readyz").starts_with("HTTP/1.1 200"));
    assert!(get(&daemon, "/api/v1/run").1["restarts"].as_object().unwrap().is_empty());
    let grown = resident_mb(&daemon).saturating_sub(memory);
    assert!(grown < 100, "the supervisor grew by {grown} MB");

    // They are all still there on their side; the daemon lets go of them by itself.
    drop(watchers);
    daemon
        .wait_for("the daemon to let go of its guests", |daemon| file_descriptors(daemon) <= descriptors + 8);
    drop((slow, deaf, mad));
}

#[test]
fn a_run_that_stalls_says_so_and_recovers() {
    let home = home();
    let daemon = Daemon::start(home.path(), &["--stall-after", "2"]);
    daemon.wait_for_step(3.0);
    let worker = daemon.worker();
    kill("STOP", worker);
    let stage =
        |daemon: &Daemon| get(daemon, "/api/v1/run").1["last"]["ranks"][0]["stage_seconds"].as_f64().unwrap();
    let (before, scraped) = (stage(&daemon), daemon.metric("beit_trainer_stage_seconds{rank=\"0\"}"));
    daemon.wait_for("the stall to show", |daemon| daemon.metric("beit_daemon_ready") == 0.0);
    let answer = daemon.ask("GET /readyz");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("stalled: step"), "{answer}");
    assert!(stage(&daemon) > before + 1.0, "a rank's stage ages while its process is silent");
    assert!(daemon.metric("beit_trainer_stage_seconds{rank=\"0\"}") > scraped + 1.0, "for Prometheus too");
    let at = daemon.metric("beit_trainer_last_step_timestamp_seconds");
    assert_eq!(daemon.metric("beit_trainer_last_step_timestamp_seconds"), at);
    kill("CONT", worker);
    daemon.wait_for("the run to go on", |daemon| daemon.metric("beit_daemon_ready") == 1.0);
}

fn steps(daemon: &Daemon) -> Vec<u64> {
    let (_, history) = get(daemon, "/api/v1/history");
    let lengths: BTreeMap<usize, Vec<&String>> =
        history.as_object().unwrap().iter().fold(BTreeMap::new(), |mut lengths, (name, column)| {
            lengths.entry(column.as_array().unwrap().len()).or_default().push(name);
            lengths
        });
    assert_eq!(lengths.len(), 1, "columns of different lengths: {lengths:?}");
    history["step"].as_array().unwrap().iter().map(|step| step.as_u64().unwrap()).collect()
}

fn rise(steps: &[u64]) -> bool {
    steps.windows(2).all(|pair| pair[0] < pair[1])
}

#[test]
fn the_history_survives_kills_and_takes_back_what_comes_again() {
    let home = home();
    let more = ["--set", "save_every_steps=10"];
    let daemon = Daemon::start(home.path(), &more);
    daemon.wait_for_step(12.0);
    let first_id = get(&daemon, "/api/v1/log").1["id"].as_u64().unwrap();
    kill("STOP", daemon.worker());
    daemon.wait_for("the reports of the worker to be in", |daemon| {
        let facts = get(daemon, "/api/v1/run").1;
        facts["reported_at"]
            .as_f64()
            .is_some_and(|at| std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() > at + 1.0)
    });
    let before = steps(&daemon);
    assert!(rise(&before) && before.len() >= 2, "{before:?}");
    drop(daemon); // kill -9
    let file = home.path().join("run/history.jsonl");
    let mut torn = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    torn.write_all(b"{\"step\":99999,\"at\":1").unwrap();

    let daemon = Daemon::start(home.path(), &more);
    let kept = steps(&daemon);
    assert_eq!(kept, before, "at once, before a worker has started");
    let resumed = resumed_step(&daemon);
    daemon.wait_for_step(*before.last().unwrap() as f64 + 5.0);
    let after = steps(&daemon);
    assert!(rise(&after), "{after:?}");
    let same: Vec<u64> = before.iter().copied().filter(|step| *step <= resumed).collect();
    assert_eq!(after[..same.len()], same, "what was saved stays");
    assert!(after.last() > before.last(), "and it goes on");

    // A watcher of the first daemon comes back to the second.
    let mut watch = Watch::open(&daemon, "", &format!("Last-Event-ID: {first_id}\r\n"));
    let mut ids = Vec::new();
    let told = (0..50).any(|_| {
        let (id, _, data) = watch.next();
        ids.push(id);
        data.contains(&format!("going on from the checkpoint of step {resumed}"))
    });
    assert!(told && ids[0] > first_id && ids.is_sorted(), "{ids:?}");

    kill("KILL", daemon.worker());
    daemon.wait_for("another worker", |daemon| {
        daemon.metric("beit_daemon_restarts_total{cause=\"signal\"}") == 1.0
            && daemon.metric("beit_daemon_ready") == 1.0
    });
    assert!(rise(&steps(&daemon)), "{:?}", steps(&daemon));
}

/// The step that this daemon's first worker went on from.
fn resumed_step(daemon: &Daemon) -> u64 {
    let find = |daemon: &Daemon| {
        let (_, facts) = get(daemon, "/api/v1/run");
        facts["events"].as_array().unwrap().iter().find_map(|event| {
            event["text"]
                .as_str()
                .unwrap()
                .strip_prefix("going on from the checkpoint of step ")?
                .parse()
                .ok()
        })
    };
    daemon.wait_for("training to go on", |daemon| find(daemon).is_some());
    find(daemon).unwrap()
}

#[test]
fn every_answer_is_as_openapi_says() {
    let home = home();
    let daemon = Daemon::start(home.path(), &["--set", "save_every_steps=5"]);
    let (_, document) = get(&daemon, "/api/v1/openapi.json");
    let fits = |path: &str, route: &str| {
        let (status, body) = get(&daemon, path);
        let answer = &document["paths"][route]["get"]["responses"][status.to_string()];
        let answer = answer["$ref"].as_str().map_or(answer, |name| document.pointer(&name[1..]).unwrap());
        let schema = &answer["content"]["application/json"]["schema"];
        check(&document, schema, &body, path).unwrap_or_else(|error| panic!("{status} {error}"));
        status
    };
    let plain = |path: &str| fits(path, path.split('?').next().unwrap());
    plain("/api/v1/run"); // Before there is a plan or a step.
    plain("/api/v1/plan");
    daemon.wait_for_step(6.0);
    for path in ["/api/v1/run", "/api/v1/plan", "/api/v1/history?points=3", "/api/v1/log?lines=5"] {
        assert_eq!(plain(path), 200, "{path}");
    }
    assert_eq!(plain("/api/v1/log?lines=many"), 400);
    assert_eq!(fits("/api/v1/samples/0/other.png", "/api/v1/samples/{number}/{picture}"), 404);
    plain("/api/v1/samples");

    let schema = |name: &str| &document["components"]["schemas"][name];
    let mut watch = Watch::open(&daemon, "", "");
    for (kind, name) in [("run", "Run"), ("point", "Point"), ("event", "Event")] {
        let (_, data) = watch.next_of(kind);
        let mut data: Value = serde_json::from_str(&data).unwrap();
        if kind == "run" {
            assert!(data.get("events").is_none() && data["plan"].get("text").is_none(), "{data}");
            data["events"] = Value::Array(Vec::new());
            data["plan"]["text"] = "".into();
        }
        check(&document, schema(name), &data, kind).unwrap();
    }
    let token = std::fs::read_to_string(home.path().join("run/daemon.token")).unwrap();
    let request = format!(
        "POST /api/v1/checkpoint HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    let mut answer = String::new();
    connect(&daemon.address, request.as_bytes()).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let body = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    check(&document, schema("Accepted"), &body, "accepted").unwrap();
    assert!(watch.next_of("event").1.contains("checkpoint"), "and everyone who watches is told");
}

#[test]
fn what_serves_http_is_nicer_than_what_trains() {
    let home = home();
    let daemon = Daemon::start(home.path(), &[]);
    daemon.wait_for_step(1.0);
    let nice = |pid: u32, name: &str| -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stat = |path: &Path| std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let stats =
            tasks.map(|task| stat(&task.unwrap().path())).filter(|stat| stat.contains(&format!("({name}")));
        stats
            .map(|stat| stat.rsplit(')').next().unwrap().split(' ').nth(17).unwrap().parse().unwrap())
            .collect()
    };
    let (http, worker) = (nice(daemon.child.id(), "http"), nice(daemon.worker(), "rank"));
    assert!(!http.is_empty() && !worker.is_empty(), "{http:?} {worker:?}");
    let ours = nice(daemon.child.id(), "beit-daemon")[0];
    assert!(http.iter().all(|nice| *nice == (ours + 19).min(19)), "{http:?}");
    assert!(worker.iter().all(|nice| *nice == ours), "{worker:?}");
}

#[test]
fn the_documents_name_the_same_routes() {
    let text = std::fs::read_to_string(root().join("daemon/src/http/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let api = std::fs::read_to_string(root().join("docs/api.md")).unwrap();
    for path in document["paths"].as_object().unwrap().keys() {
        let name = path.split('{').next().unwrap().trim_end_matches('/').rsplit('/').next().unwrap();
        assert!(api.contains(name), "docs/api.md does not name {path}");
    }
}
