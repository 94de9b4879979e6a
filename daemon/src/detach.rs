//! `start --detach`: the same command again in a session of its own, watched until training starts.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::board::State;
use crate::client::fetch;
use crate::settings::{Settings, StartArgs};

/// Starts the background half and returns when training has started, or failed to.
///
/// # Errors
/// What can be refused before anything starts; what goes wrong later is printed from its log.
pub fn start(args: &StartArgs) -> Result<ExitCode> {
    let settings = Settings::resolve(args, Path::new("."))?;
    drop(settings.run.lock()?);
    let log_path = settings.run.log_path();
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&log_path)
        .with_context(|| format!("opening {}", log_path.display()))?;
    let begun_at = log.seek(SeekFrom::End(0))?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new(std::env::current_exe().context("finding this binary")?)
        .args(arguments)
        .arg("--in-background")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()
        .context("starting the daemon")?;

    loop {
        if let Some(status) = child.try_wait().context("watching the daemon")? {
            // Very short runs end before anybody looks.
            let words = since(&mut log, begun_at)?;
            std::io::stderr().write_all(words.as_bytes())?;
            return Ok(status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .map_or(ExitCode::FAILURE, ExitCode::from));
        }
        let notice = settings.run.notice().filter(|notice| notice.pid == child.id());
        if let Some(notice) = notice
            && notice.state == State::Running
            && let Ok(facts) = fetch(&notice)
        {
            let run = settings.run.path().display();
            println!("listening on {}", facts.url);
            println!("training in the background (pid {}), log in {}", notice.pid, log_path.display());
            println!(
                "`beit-daemon status --run {run}` says how it goes, `beit-daemon logs --run {run}` what it said, \
                 `beit-daemon stop --run {run}` saves and ends it"
            );
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Leaves the terminal's session, so that closing it ends nothing.
///
/// # Errors
/// The system's, for a process that leads a group already.
pub fn leave_session() -> Result<()> {
    rustix::process::setsid().context("leaving the session")?;
    Ok(())
}

fn since(log: &mut File, begun_at: u64) -> Result<String> {
    log.seek(SeekFrom::Start(begun_at))?;
    let mut words = Vec::new();
    log.take(1 << 20).read_to_end(&mut words).context("reading daemon.log")?;
    Ok(String::from_utf8_lossy(&words).into_owned())
}
