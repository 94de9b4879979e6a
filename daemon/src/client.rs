//! The daemon's other end: finds a run's supervisor and talks to it over HTTP, or by signal.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};

use crate::board::Facts;
use crate::discover::only_run;
use crate::exit::{Fault, NO_DAEMON};
use crate::rundir::{Notice, RunDir, process_started};

/// How long a supervisor may take to answer; its door never waits for training.
const PATIENCE: Duration = Duration::from_secs(5);

/// The run that is meant: the one named, else the only one here.
///
/// # Errors
/// No daemon ever ran there, or it is not clear which run is meant.
pub fn find(run: Option<&Path>, command: &str) -> Result<RunDir> {
    match run {
        Some(path) => {
            let run = RunDir::new(path);
            if !run.has_daemon() && !run.is_locked() {
                let path = path.display();
                return Err(Fault::error(
                    NO_DAEMON,
                    format!("no daemon has run in {path}; runs are listed by `beit-daemon runs`"),
                ));
            }
            Ok(run)
        }
        None => only_run(Path::new("."), command),
    }
}

/// What a living supervisor wrote about itself.
pub fn alive(run: &RunDir) -> Option<Notice> {
    run.is_locked().then(|| run.notice())?
}

/// The board of a living supervisor.
///
/// # Errors
/// It does not answer, or not with a board.
pub fn fetch(notice: &Notice) -> Result<Facts> {
    let body = request(notice.address, "GET /api/v1/run", "")?;
    serde_json::from_slice(&body).context("reading the daemon's answer")
}

/// Asks for something that changes the run: `POST /api/v1/{verb}` with the token of the run directory.
///
/// # Errors
/// The token cannot be read, the supervisor does not answer, or it refuses.
pub fn ask(run: &RunDir, notice: &Notice, verb: &str) -> Result<()> {
    let token = run.token()?;
    let headers = format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n");
    request(notice.address, &format!("POST /api/v1/{verb}"), &headers)?;
    Ok(())
}

/// Sends SIGTERM to the process that wrote the notice, and to no other of the same number.
///
/// # Errors
/// It is gone, or not ours.
pub fn signal(notice: &Notice) -> Result<()> {
    ensure!(
        process_started(notice.pid) == Some(notice.pid_started),
        "process {} is another one now",
        notice.pid
    );
    let pid = i32::try_from(notice.pid).ok().and_then(Pid::from_raw).context("reading the pid")?;
    rustix::process::kill_process(pid, Signal::TERM).context("sending SIGTERM")
}

/// One request to our own server; the body of a 2xx answer.
fn request(address: SocketAddr, line: &str, headers: &str) -> Result<Vec<u8>> {
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("asking {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")?;
    let mut answer = Vec::new();
    stream.take(8 << 20).read_to_end(&mut answer).with_context(|| format!("hearing {address}"))?;
    body(&answer)
}

fn body(answer: &[u8]) -> Result<Vec<u8>> {
    let split = answer
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .context("the answer has no end of headers")?;
    let head = String::from_utf8_lossy(&answer[..split]);
    let status = head.lines().next().unwrap_or_default();
    ensure!(
        status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')),
        "the daemon answered {status}"
    );
    Ok(answer[split + 4..].to_vec())
}

/// Where to reach a server that listens on every address.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(each) if each.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(each) if each.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        given => given,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::State;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}").unwrap(), b"{}");
        let message = body(b"HTTP/1.1 401 Unauthorized\r\n\r\n{}").unwrap_err().to_string();
        assert!(message.contains("401"), "{message}");
        assert!(body(b"garbage").is_err());
    }

    #[test]
    fn a_server_on_every_address_is_asked_on_the_loopback() {
        assert_eq!(reachable("0.0.0.0".parse().unwrap()).to_string(), "127.0.0.1");
        assert_eq!(reachable("::".parse().unwrap()).to_string(), "::1");
        assert_eq!(reachable("10.0.0.7".parse().unwrap()).to_string(), "10.0.0.7");
    }

    #[test]
    fn a_process_of_the_same_number_is_not_signalled() {
        let notice = Notice {
            pid: std::process::id(),
            pid_started: 0,
            address: "127.0.0.1:1".parse().unwrap(),
            recipe: "r".into(),
            state: State::Running,
            error: None,
            step: 0,
            unsaved_steps: None,
        };
        assert!(signal(&notice).is_err(), "this process is not the one that the notice means");
    }
}
