use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::serve::HEADER_TIME;
use super::*;
use crate::board::{State, now};
use crate::wire::{Planned, RankSample, Sample};

/// Serves a board on a free port.
fn open() -> (SocketAddr, Arc<Board>, Receiver<Event>) {
    open_in(Path::new("nowhere"))
}

fn open_in(run: &Path) -> (SocketAddr, Arc<Board>, Receiver<Event>) {
    let (address, board, events, _) = open_with_watchers(run);
    (address, board, events)
}

fn open_with_watchers(run: &Path) -> (SocketAddr, Arc<Board>, Receiver<Event>, Watchers) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let board = Arc::new(crate::board::tests::board());
    let (sender, events) = channel();
    let watchers = serve(listener, board.clone(), &RunDir::new(run), "secret".into(), sender).unwrap();
    (address, board, events, watchers)
}

/// Sends raw bytes and returns everything that comes back.
fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // A server that refuses early may close before all is written.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(address: SocketAddr, line: &str, more: &str) -> String {
    raw(address, format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n").as_bytes())
}

/// Status and body.
#[track_caller]
fn json(address: SocketAddr, path: &str) -> (u16, Value) {
    let answer = ask(address, &format!("GET {path}"), "");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{path}: {answer}");
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

fn sample(step: u64) -> Sample {
    Sample { step, loss: 9.0 - step as f64 / 100.0, last_step_at: Some(now()), ..Sample::default() }
}

#[test]
fn every_door_answers_before_the_first_step() {
    let (address, board, _events) = open();
    assert!(ask(address, "GET /healthz", "").starts_with("HTTP/1.1 200"));
    let ready = ask(address, "GET /readyz", "");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("the run is starting"), "{ready}");
    let metrics = ask(address, "GET /metrics", "");
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nbeit_trainer_step 0\n"), "{metrics}");
    assert!(ask(address, "GET /api/v1/run", "").contains("\"state\":\"starting\""));
    let page = ask(address, "GET /", "");
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    assert!(ask(address, "GET /assets/page.css", "").contains("text/css"));
    assert!(ask(address, "GET /nothing", "").starts_with("HTTP/1.1 404"));
    board.set_state(State::Running);
    assert!(ask(address, "GET /metrics", "").contains("beit_daemon_http_requests_total{status=\"4xx\"} 1"));
}

#[test]
fn errors_of_the_api_are_objects_that_say_what_to_do() {
    let (address, _board, _events) = open();
    for (path, status, words) in [
        ("/api/v1/nothing", 404, "openapi.json"),
        ("/api/v1/stop", 405, "method"),
        ("/api/v1/history?since=soon", 400, "since"),
        ("/api/v1/log?lines=-1", 400, "lines"),
        ("/api/v1/plan", 404, "plan"),
        ("/api/v1/samples", 404, "no pictures"),
        ("/api/v1/samples/one/view.png", 400, "one"),
        ("/api/v1/samples/0/view.jpg", 404, "view.png"),
    ] {
        let (found, body) = json(address, path);
        let message = body["error"].as_str().unwrap();
        assert!(found == status && message.contains(words), "{path}: {found} {body}");
    }
    let long =
        ask(address, "POST /api/v1/stop", "Authorization: Bearer secret\r\nContent-Length: 1000000\r\n");
    assert!(long.starts_with("HTTP/1.1 413") && long.contains("{\"error\":"), "{long}");
}

#[test]
fn a_strangers_domain_reads_nothing() {
    let (address, _board, events) = open();
    for host in ["evil.example", "evil.example:9777"] {
        for line in ["GET /metrics", "GET /api/v1/run", "POST /api/v1/stop"] {
            let request = format!(
                "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\r\n"
            );
            let answer = raw(address, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 421") && !answer.contains("runs/x"), "{answer}");
        }
    }
    assert!(events.try_recv().is_err());
}

#[test]
fn wrong_tokens_are_heard_out_only_so_often() {
    let (address, _board, _events) = open();
    let guess = || ask(address, "POST /api/v1/stop", "Authorization: Bearer guess\r\n");
    let answers: Vec<String> = (0..20).map(|_| guess()).collect();
    assert!(answers[0].starts_with("HTTP/1.1 401"), "{}", answers[0]);
    assert!(
        answers.iter().any(|answer| answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after"))
    );
    assert!(
        ask(address, "POST /api/v1/stop", "Authorization: Bearer secret\r\n").starts_with("HTTP/1.1 202")
    );
}

#[test]
fn plan_history_and_log_are_told() {
    let (address, board, _events) = open();
    board.planned(Planned { text: "the plan".into(), steps: 10, ..Planned::default() });
    assert_eq!(json(address, "/api/v1/plan").1["text"], "the plan");
    (1..=5).for_each(|step| board.sample(sample(step)));
    let (_, history) = json(address, "/api/v1/history?since=3");
    assert_eq!(history["step"], json!([4, 5]));
    assert_eq!(history["data_wait_ratio"], json!([null, null]), "no ranks, no ratio");
    assert_eq!(json(address, "/api/v1/history?points=2").1["step"], json!([1, 5]));
    board.resumed(2);
    assert_eq!(json(address, "/api/v1/history").1["step"], json!([1, 2]), "they come again");
    board.feed.log("one\ntwo\nthree");
    let (_, log) = json(address, "/api/v1/log?lines=2");
    assert_eq!((&log["lines"], &log["id"]), (&json!(["two", "three"]), &json!(board.feed.newest())));
}

#[test]
fn a_silent_workers_stage_goes_on_ageing() {
    let (address, board, _events) = open();
    board.worker_started(1);
    let ranks = vec![RankSample { stage: "step".into(), stage_seconds: 1.0, ..RankSample::default() }];
    board.sample(Sample { ranks, ..sample(1) });
    std::thread::sleep(Duration::from_millis(300));
    let seconds = json(address, "/api/v1/run").1["last"]["ranks"][0]["stage_seconds"].as_f64().unwrap();
    assert!(seconds >= 1.3, "{seconds}");
    board.worker_gone(None, None);
    let seconds = json(address, "/api/v1/run").1["last"]["ranks"][0]["stage_seconds"].as_f64().unwrap();
    assert_eq!(seconds, 1.0, "the dead do nothing");
}

#[test]
fn pictures_are_what_the_index_names_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("pictures");
    std::fs::create_dir(&folder).unwrap();
    let png = b"\x89PNG\r\n\x1a\nand so on";
    std::fs::write(home.path().join("secret.png"), png).unwrap();
    std::fs::write(folder.join("0-view-7.png"), png).unwrap();
    std::fs::write(folder.join("text.png"), "no picture").unwrap();
    std::fs::File::create(folder.join("huge.png")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("../secret.png", folder.join("link.png")).unwrap();
    let names = [
        ("0-view-7.png", 200),
        ("../secret.png", 404),
        ("/etc/passwd", 404),
        (home.path().join("secret.png").to_str().unwrap(), 404),
        ("link.png", 404),
        ("text.png", 500),
        ("huge.png", 500),
        ("gone.png", 404),
    ]
    .map(|(name, status)| (name.to_owned(), status));
    let samples: Vec<Value> =
        names.iter().map(|(name, _)| json!({"view": name, "predicted": null})).collect();
    std::fs::write(folder.join("index.json"), json!({"step": 7, "samples": samples}).to_string()).unwrap();

    let (address, _board, _events) = open_in(home.path());
    assert_eq!(json(address, "/api/v1/samples").1["step"], 7);
    for (number, (name, status)) in names.iter().enumerate() {
        let answer = ask(address, &format!("GET /api/v1/samples/{number}/view.png"), "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
        assert_eq!(answer.contains("and so on"), *status == 200, "{name}: {answer}");
    }
    let answer = ask(address, "GET /api/v1/samples/0/view.png", "");
    assert!(
        answer.contains("content-type: image/png") && answer.contains("etag: \"0-view-7.png\""),
        "{answer}"
    );
    let known = ask(address, "GET /api/v1/samples/0/view.png", "If-None-Match: \"0-view-7.png\"\r\n");
    assert!(known.starts_with("HTTP/1.1 304") && !known.contains("and so on"), "{known}");
    for path in [
        "0/predicted.png",
        "99/view.png",
        "0/..%2F..%2Fsecret.png",
        "..%2F0/view.png",
        "18446744073709551615/view.png",
    ] {
        let answer = ask(address, &format!("GET /api/v1/samples/{path}"), "");
        assert!(answer.starts_with("HTTP/1.1 40") && !answer.contains("and so on"), "{path}: {answer}");
    }
    std::fs::write(folder.join("index.json"), "{\"step\":").unwrap();
    assert!(json(address, "/api/v1/samples").1["error"].as_str().unwrap().contains("damaged"));
}

/// Opens a stream and reads until an event of this kind; returns its id and data.
#[track_caller]
fn next_event(stream: &mut impl BufRead, kind: &str) -> (u64, String) {
    let (mut id, mut found) = (0, false);
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended before {kind:?}");
        if let Some(word) = line.strip_prefix("event: ") {
            found = word.trim() == kind;
        } else if let Some(number) = line.strip_prefix("id: ") {
            id = number.trim().parse().unwrap();
        } else if let Some(data) = line.strip_prefix("data: ")
            && found
        {
            return (id, data.trim().to_owned());
        }
    }
}

fn watch(address: SocketAddr, more: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: x\r\n{more}\r\n").unwrap();
    BufReader::new(stream)
}

#[test]
fn a_watcher_sees_what_happens_and_goes_on_where_it_was() {
    let (address, board, _events) = open();
    let mut stream = watch(address, "");
    let (_, first) = next_event(&mut stream, "run");
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&first["state"], &first["events"]), (&json!("starting"), &Value::Null));
    board.feed.log("a line");
    assert_eq!(next_event(&mut stream, "log").1, "a line");
    board.tell("an event");
    let (seen, event) = next_event(&mut stream, "event");
    assert!(event.contains("\"text\":\"an event\""), "{event}");
    drop(stream);

    board.sample(sample(3));
    board.feed.log("while nobody looked");
    let mut stream = watch(address, &format!("Last-Event-ID: {seen}\r\n"));
    let (_, point) = next_event(&mut stream, "point");
    assert_eq!(serde_json::from_str::<Value>(&point).unwrap()["step"], 3);
    assert_eq!(next_event(&mut stream, "log").1, "while nobody looked");
}

#[test]
fn streams_are_few_and_one_that_ends_makes_room() {
    let (address, _board, _events) = open();
    let mut streams: Vec<_> = (0..events::STREAMS).map(|_| watch(address, "")).collect();
    streams.iter_mut().for_each(|stream| drop(next_event(stream, "run")));
    let (status, body) = json(address, "/api/v1/events");
    assert!(status == 503 && body["error"].as_str().unwrap().contains("streams"), "{body}");
    assert!(ask(address, "GET /healthz", "").starts_with("HTTP/1.1 200"));
    streams.clear();
    let begun = Instant::now();
    loop {
        let mut status = String::new();
        watch(address, "").read_line(&mut status).unwrap();
        if status.contains("200") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_route_is_described_and_every_described_route_exists() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    let page = ["get /".to_owned()];
    let exist: BTreeSet<String> =
        routes().iter().map(|(method, path, _)| format!("{method} {path}")).chain(page).collect();
    assert_eq!(described, exist);

    let (address, _board, _events) = open();
    for route in exist.iter().filter(|route| !route.ends_with("/events")) {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path.replace("{number}", "0").replace("{picture}", "view.png");
        let answer = ask(address, &format!("{} {path}", method.to_uppercase()), "");
        assert!(
            !answer.contains("nothing is here") && !answer.starts_with("HTTP/1.1 405"),
            "{route}: {answer}"
        );
        let status = &answer[9..12];
        let known = &document["paths"][route.split_once(' ').unwrap().1][method]["responses"][status];
        assert!(known.is_object(), "{route} answers {status}, which is not described");
    }
}

#[test]
fn an_answer_serves_all_who_ask_within_a_moment_unless_the_board_changes() {
    let fresh = Fresh::default();
    let made = std::cell::Cell::new(0);
    let ask = |changes| {
        fresh.get(changes, || {
            made.set(made.get() + 1);
            vec![made.get()]
        })[0]
    };
    assert_eq!([ask(1), ask(1), ask(2), ask(2)], [1, 1, 2, 2]);
    std::thread::sleep(FRESH);
    assert_eq!(ask(2), 3);
}

#[test]
fn a_newcomer_is_served_however_many_sit_there() {
    let (address, _board, _events) = open();
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..400 {
        idle.push(TcpStream::connect(address).unwrap());
    }
    let begun = Instant::now();
    assert!(ask(address, "GET /healthz", "").starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < HEADER_TIME, "it did not have to wait until they were thrown out");
}

#[test]
fn what_changes_the_run_needs_the_token() {
    let (address, _board, events) = open();
    for wrong in ["", "Authorization: Bearer secreT\r\n", "Authorization: Basic secret\r\n"] {
        assert!(ask(address, "POST /api/v1/stop", wrong).starts_with("HTTP/1.1 401"), "{wrong}");
    }
    assert!(events.try_recv().is_err(), "a refused request must not pass");
    assert!(ask(address, "GET /api/v1/stop", "Authorization: Bearer secret\r\n").starts_with("HTTP/1.1 405"));
    assert!(
        ask(address, "POST /api/v1/stop", "Authorization: Bearer secret\r\n").starts_with("HTTP/1.1 202")
    );
    assert!(matches!(events.try_recv(), Ok(Event::Stop { who: "the API" })));
    assert!(ask(address, "POST /api/v1/checkpoint", "authorization: Bearer secret\r\n").contains("accepted"));
    assert!(matches!(events.try_recv(), Ok(Event::Checkpoint)));
    for (verb, paused) in [("pause", true), ("resume", false)] {
        assert!(ask(address, &format!("POST /api/v1/{verb}"), "").starts_with("HTTP/1.1 401"));
        let answer = ask(address, &format!("POST /api/v1/{verb}"), "Authorization: Bearer secret\r\n");
        assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        assert!(matches!(events.try_recv(), Ok(Event::Pause(wish)) if wish == paused), "{verb}");
    }
}

#[test]
fn huge_and_malformed_requests_are_refused_and_the_next_one_is_served() {
    let (address, _board, _events) = open();
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = raw(address, huge.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let answer = raw(address, b"\x16\x03\x01 this is no HTTP\r\n\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(ask(address, "GET /healthz", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_client_that_never_finishes_its_request_is_cut_off_and_disturbs_nobody() {
    let (address, _board, _events) = open();
    let mut slow: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    }
    let begun = std::time::Instant::now();
    assert!(ask(address, "GET /healthz", "").starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(3));
    let mut stream = slow.pop().unwrap();
    stream.set_read_timeout(Some(HEADER_TIME * 2)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server closes the connection itself");
}

#[test]
fn a_busy_port_is_named_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let message = bind(taken.local_addr().unwrap()).unwrap_err().to_string();
    assert!(
        message.contains(&format!("port {port}")) && message.contains("--listen 127.0.0.1:0"),
        "{message}"
    );
}

#[test]
fn whoever_watches_is_told_how_the_run_ended_before_the_process_goes() {
    let (address, board, _events, watchers) = open_with_watchers(Path::new("nowhere"));
    let mut stream = watch(address, "");
    assert!(next_event(&mut stream, "run").1.contains("\"state\":\"starting\""));
    board.set_state(State::Finished);
    board.tell("the run is finished");
    watchers.farewell();
    let told = next_event(&mut stream, "run").1;
    assert!(told.contains("\"state\":\"finished\""), "{told}");
    assert_eq!(watchers.streams.available_permits(), events::STREAMS, "the stream has not ended");
}
