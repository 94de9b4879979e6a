//! `status` and `stop`: finds a run's supervisor and talks to it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::board::{Facts, State, now};
use crate::discover::only_run;
use crate::rundir::{Notice, RunDir, process_started};
use crate::screen::duration;

/// How long a supervisor may take to answer; its door never waits for training.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints how the run is.
///
/// # Errors
/// There is no run, or it is not clear which is meant.
pub fn status(run: Option<&Path>, as_json: bool) -> Result<()> {
    let run = find(run, "status")?;
    let facts = alive(&run).and_then(|notice| fetch(&notice).ok());
    let text = match (facts, as_json) {
        (Some(facts), true) => {
            let mut value = serde_json::to_value(&facts)?;
            value["alive"] = json!(true);
            value["address"] = json!(facts.url);
            value["step"] = json!(facts.last.step);
            value["steps"] = json!(facts.plan.as_ref().map(|plan| plan.steps));
            value.to_string()
        }
        (Some(facts), false) => living(&facts),
        (None, true) => resting_json(&run).to_string(),
        (None, false) => resting(&run),
    };
    writeln!(std::io::stdout(), "{text}").context("writing to stdout")
}

/// Asks the run to save and end, and waits until its supervisor is gone.
///
/// # Errors
/// There is no run, or it is not ours to stop, or it is still there after `timeout`.
pub fn stop(run: Option<&Path>, timeout: Duration) -> Result<()> {
    let run = find(run, "stop")?;
    let path = run.path().display();
    if !run.is_locked() {
        println!("no daemon runs in {path}; nothing to stop");
        return Ok(());
    }
    let notice = run.notice().with_context(|| {
        format!(
            "a daemon has just started in {path} and has not said where it listens; try again in a moment"
        )
    })?;
    if let Err(error) = ask(&run, &notice) {
        tracing::debug!("The API did not take the request ({error:#}); sending SIGTERM.");
        signal(&notice)
            .with_context(|| format!("stopping the daemon in {path} after its API refused: {error:#}"))?;
    }
    let begun = Instant::now();
    while run.is_locked() {
        ensure!(
            begun.elapsed() < timeout,
            "the daemon in {path} (pid {}) is still saving after {} s; `kill {0}` makes it stop at its last checkpoint",
            notice.pid,
            timeout.as_secs()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // The lock goes a moment before the process does.
    let unlocked = Instant::now();
    while runs(notice.pid) && unlocked.elapsed() < GONE_WITHIN {
        std::thread::sleep(Duration::from_millis(10));
    }
    match run.notice() {
        Some(Notice { state: State::Failed, error, .. }) => {
            bail!("the run in {path} had failed: {}", error.unwrap_or_else(|| "see its log".into()))
        }
        _ => match run.newest_checkpoint() {
            Some(step) => println!("stopped; {path} holds the checkpoint of step {step}"),
            None => println!("stopped; {path} holds no checkpoint"),
        },
    }
    Ok(())
}

/// How long a process may take to end once it has let go of its run.
const GONE_WITHIN: Duration = Duration::from_secs(10);

fn runs(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

fn find(run: Option<&Path>, command: &str) -> Result<RunDir> {
    match run {
        Some(path) => {
            let run = RunDir::new(path);
            ensure!(
                run.has_daemon() || run.is_locked(),
                "no daemon has run in {}; runs are listed by `ls runs/`",
                path.display()
            );
            Ok(run)
        }
        None => only_run(Path::new("."), command),
    }
}

/// What a living supervisor wrote about itself.
fn alive(run: &RunDir) -> Option<Notice> {
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

fn ask(run: &RunDir, notice: &Notice) -> Result<()> {
    let token = run.token()?;
    request(
        notice.address,
        "POST /api/v1/stop",
        &format!("Authorization: Bearer {token}\r\nContent-Length: 0\r\n"),
    )?;
    Ok(())
}

fn signal(notice: &Notice) -> Result<()> {
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

fn living(facts: &Facts) -> String {
    let last = &facts.last;
    let steps = facts.plan.as_ref().map_or(0, |plan| plan.steps);
    let mut lines = vec![
        format!("{} in {}: {}", facts.recipe, facts.run, facts.state.word()),
        format!("  step        {} of {steps}, epoch {}", last.step, last.epoch),
    ];
    if last.last_step_at.is_some() {
        lines.push(format!("  loss        {:.4}, masked accuracy {:.2} %", last.loss, 100.0 * last.mlm_acc));
        let left = facts.eta_seconds.map_or_else(String::new, |eta| format!(", {} left", duration(eta)));
        lines.push(format!("  speed       {:.0} samples/s{left}", facts.samples_per_second));
    }
    lines.push(match (last.checkpoint.step, last.checkpoint.at) {
        (Some(step), Some(at)) => format!("  checkpoint  step {step}, {} ago", duration(now() - at)),
        _ => "  checkpoint  none yet".to_owned(),
    });
    let restarts: u64 = facts.restarts.values().sum();
    if restarts > 0 {
        lines.push(format!("  restarts    {restarts}"));
    }
    if let Some(error) = &facts.error {
        lines.push(format!("  last error  {error}"));
    }
    lines.push(format!("  page        {}/  (metrics at {0}/metrics)", facts.url));
    lines.join("\n")
}

fn resting(run: &RunDir) -> String {
    let path = run.path().display();
    let (was, error) = last_words(run);
    let mut text = format!("no daemon runs in {path}: {was}");
    if let Some(error) = error {
        text.push_str(&format!("\n  last error  {error}"));
    }
    text.push_str(&match run.newest_checkpoint() {
        Some(step) => format!("\n  checkpoint  step {step}; the same `beit-daemon start` goes on from it"),
        None => "\n  checkpoint  none".to_owned(),
    });
    text
}

fn resting_json(run: &RunDir) -> Value {
    let (was, error) = last_words(run);
    json!({"alive": false, "state": was, "run": run.path(), "checkpoint_step": run.newest_checkpoint(), "error": error})
}

/// State and error in the last notice; a notice of something under way whose writer is gone means a kill.
fn last_words(run: &RunDir) -> (&'static str, Option<String>) {
    match run.notice() {
        Some(Notice { state: state @ (State::Finished | State::Stopped | State::Failed), error, .. }) => {
            (state.word(), error)
        }
        _ => ("killed", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_board_reads_as_text_and_survives_its_json() {
        let board = crate::board::tests::board();
        let facts: Facts = serde_json::from_str(&serde_json::to_string(&board.facts()).unwrap()).unwrap();
        let text = living(&facts);
        assert!(text.contains("pretrain-tiny-cpu in runs/x: starting"), "{text}");
        assert!(text.contains("http://127.0.0.1:9777/metrics"), "{text}");
    }

    #[test]
    fn a_run_that_was_killed_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let mut notice = Notice {
            pid: std::process::id(),
            pid_started: 0,
            address: "127.0.0.1:1".parse().unwrap(),
            recipe: "r".into(),
            state: State::Running,
            error: None,
        };
        run.put_notice(&notice).unwrap();
        assert!(resting(&run).contains("killed"));
        assert!(signal(&notice).is_err(), "this process is not the one that the notice means");
        notice.state = State::Failed;
        notice.error = Some("no room".into());
        run.put_notice(&notice).unwrap();
        assert_eq!(resting_json(&run)["error"], "no room");
    }
}
