use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Serves a tally on a free port.
fn opened() -> SocketAddr {
    open("127.0.0.1:0".parse().unwrap(), &Arc::new(Tally::start()), Path::new("/no/such/place")).unwrap()
}

/// Sends raw bytes and returns everything that comes back.
fn raw(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = stream.write_all(request); // a server that refuses early may close before all is written
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(address: SocketAddr, line: &str) -> String {
    raw(address, format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
}

#[test]
fn the_door_answers_what_is_asked_and_hints_at_what_is_there() {
    let address = opened();
    assert!(ask(address, "GET /healthz").ends_with("\r\n\r\nalive\n"));
    let metrics = ask(address, "GET /metrics?name=x");
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("\nbeit_shard_samples_total 0\n"), "{metrics}");
    let head = ask(address, "HEAD /metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let lost = ask(address, "GET /");
    assert!(lost.starts_with("HTTP/1.1 404") && lost.contains("/metrics"), "{lost}");
    assert!(ask(address, "POST /metrics").starts_with("HTTP/1.1 405"));
}

#[test]
fn the_machines_numbers_are_real_also_before_the_output_folder_exists() {
    let metrics = ask(opened(), "GET /metrics");
    for name in ["beit_shard_disk_free_bytes ", "beit_shard_process_resident_memory_bytes "] {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        assert!(value.parse::<f64>().unwrap() > 1e6, "{name}{value}");
    }
}

#[test]
fn huge_slow_and_malformed_requests_disturb_nobody() {
    let address = opened();
    let mut slow: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let answer = raw(address, huge.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let answer = raw(address, b"\x16\x03\x01 this is no HTTP\r\n\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(ask(address, "GET /healthz").starts_with("HTTP/1.1 200"));
    let mut stream = slow.pop().unwrap();
    stream.set_read_timeout(Some(HEADER_TIME * 6)).unwrap();
    stream.read_to_end(&mut Vec::new()).expect("the server closes the connection itself");
}

#[test]
fn a_busy_port_is_named_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let message = open(address, &Arc::new(Tally::start()), Path::new(".")).unwrap_err().to_string();
    assert!(
        message.contains(&format!("port {}", address.port())) && message.contains("--listen 127.0.0.1:0"),
        "{message}"
    );
}
