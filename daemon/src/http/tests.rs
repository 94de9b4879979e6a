use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::board::State;

/// Serves a board on a free port.
fn open() -> (SocketAddr, Arc<Board>, Receiver<Event>) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let board = Arc::new(crate::board::tests::board());
    let (sender, events) = channel();
    serve(listener, board.clone(), "secret".into(), sender).unwrap();
    (address, board, events)
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
    assert!(ask(address, "GET /style.css", "").contains("text/css"));
    assert!(ask(address, "GET /nothing", "").starts_with("HTTP/1.1 404"));
    board.set_state(State::Running);
    assert!(ask(address, "GET /metrics", "").contains("beit_daemon_http_requests_total{status=\"4xx\"} 1"));
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
