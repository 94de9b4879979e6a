//! What every street test needs: the repository, the binaries, a scratch folder, and images to pack.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A release binary of this workspace, beside the test binary.
pub fn binary(name: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join(name);
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    path
}

/// A command line of one of our binaries.
pub fn command(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(binary(name));
    command.args(args).env_remove("BEIT_TOKENIZER");
    command
}

/// Runs it to its end.
pub fn run(name: &str, args: &[&str]) -> Output {
    command(name, args).output().unwrap()
}

/// Runs it and demands success; returns its standard output.
#[track_caller]
pub fn succeed(name: &str, args: &[&str]) -> String {
    let output = run(name, args);
    assert!(
        output.status.success(),
        "{name} {args:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs it and demands a failure whose message has all of `words`; returns the message.
#[track_caller]
pub fn fail(name: &str, args: &[&str], words: &[&str]) -> String {
    let output = run(name, args);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{name} {args:?} should have failed; it said:\n{message}");
    for word in words {
        assert!(message.contains(word), "{name} {args:?}: the message lacks {word:?}:\n{message}");
    }
    message
}

/// The last line of standard output, as JSON.
#[track_caller]
pub fn last_json(stdout: &str) -> serde_json::Value {
    let line = stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|e| panic!("the last line is not JSON ({e}): {line}"))
}

/// The ten photos that the repository carries.
pub fn demo_photos() -> PathBuf {
    root().join("demo-photos")
}

/// A program of `scripts/tools.sh` (promtool, prometheus, chromium, chromedriver, node, shellcheck).
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file()).unwrap_or_else(
        || panic!("{name} is not installed: `make tools` gets it; BEIT_WITHOUT_TOOLS=1 make test leaves this out"),
    )
}

/// What `promtool check metrics` says of a scrape; it says nothing when all is well, or when it may not be asked for.
pub fn promtool(text: &str) -> String {
    if without_tools() {
        return String::new();
    }
    let mut promtool = Command::new(tool("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    format!("{}{}", String::from_utf8_lossy(&said), if output.status.success() { "" } else { "failed" })
}

/// Whether tests that need tools do without them.
pub fn without_tools() -> bool {
    std::env::var_os("BEIT_WITHOUT_TOOLS").is_some_and(|without| without == "1")
}

/// A file of an npm package that `scripts/tools.sh` has installed, such as `axe-core/axe.min.js`.
#[track_caller]
pub fn npm(file: &str) -> PathBuf {
    let path = root().join(".deps/npm/node_modules").join(file);
    assert!(
        path.exists(),
        "{} is missing: `make tools` gets it; BEIT_WITHOUT_TOOLS=1 make test leaves this out",
        path.display()
    );
    path
}
