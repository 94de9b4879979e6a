//! The page at `/` as people use it: a real browser, a real daemon that trains, real clicks.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::daemon::{Daemon, PATIENCE, TINY};
use crate::house::{command, demo_photos, npm, root, succeed};

/// Names that do harm wherever they are taken for markup.
const RUN: &str = "run <img src=x onerror=window.hacked=1>";
const SHARDS: &str = "photos <script>window.hacked=2<!--";
const RECIPE: &str = "tiny <b onmouseover=window.hacked=3>&lt;&quot;";

/// A folder with shards and a recipe, under names that bite.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let (shards, photos) = (home.path().join(SHARDS), demo_photos());
    let pack = ["build", photos.to_str().unwrap(), "--out", shards.to_str().unwrap()];
    succeed("beit-shard", &[&pack[..], &["--tokenizer", "embedded", "--views", "2"]].concat());
    let recipe = home.path().join(format!("{RECIPE}.toml"));
    std::fs::copy(root().join("recipes/pretrain-tiny-cpu.toml"), recipe).unwrap();
    home
}

/// Trains in a home made by [`home`].
#[track_caller]
fn start(home: &Path, listen: &str) -> Daemon {
    let recipe = format!("./{RECIPE}.toml");
    let mut args = vec!["start", "--device", "cpu", "--ranks", "2", "--listen", listen, "--steps", "100000"];
    args.extend(["--run", RUN, "--shards", SHARDS, "--recipe", &recipe]);
    args.extend(&TINY[2..]);
    Daemon::spawn(home, &mut command("beit-daemon", &args))
}

/// The body of an answer.
fn get(daemon: &Daemon, path: &str) -> String {
    daemon.ask(&format!("GET {path}")).split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The board.
fn board(daemon: &Daemon) -> Value {
    serde_json::from_str(&get(daemon, "/api/v1/run")).unwrap()
}

fn run_of(daemon: &Daemon) -> PathBuf {
    daemon.log.with_file_name(RUN)
}

fn checkpoints(daemon: &Daemon) -> usize {
    let folder = std::fs::read_dir(run_of(daemon).join("checkpoints")).into_iter().flatten();
    let names = folder.map(|item| item.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("step-")).count()
}

/// The step that the page shows.
fn shown_step(browser: &Browser) -> u64 {
    let text = browser.text("#progress-text");
    let digits = text.strip_prefix("step ").and_then(|rest| rest.split(" of ").next()).unwrap_or_default();
    digits.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

#[track_caller]
fn wait_for_step(browser: &Browser, step: u64) {
    browser.wait_for_text("#progress-text", |_| shown_step(browser) >= step);
}

#[test]
fn people_watch_a_run_and_steer_it_from_the_page() {
    let home = home();
    let mut daemon = start(home.path(), "127.0.0.1:0");
    let origin = format!("http://{}/", daemon.address);
    let browser = Browser::open();
    browser.look_like(1280, "light");
    browser.go(&origin);

    it_lives(&browser);
    it_shows_pictures(&browser, &daemon);
    only_the_token_opens(&browser, &daemon);
    a_click_saves_a_checkpoint(&browser, &daemon);

    browser.click("#pause");
    browser.wait_for_text("#state", |text| text == "paused");
    daemon.wait_for("a pause", |daemon| board(daemon)["state"] == "paused");
    numbers_equal_the_boards(&browser, &daemon);
    names_stay_text(&browser);
    everybody_can_use_it(&browser);
    looks(&browser);
    let stands = shown_step(&browser);
    assert_eq!(board(&daemon)["last"]["step"], stands, "a paused run stands still");

    browser.click("#pause");
    browser.wait_for_text("#state", |text| text == "running");
    wait_for_step(&browser, stands + 3);

    nothing_foreign_and_nothing_refused(&browser, &origin);
    it_says_when_nobody_answers(&browser, &mut daemon);
}

/// State, steps and curves move by themselves.
fn it_lives(browser: &Browser) {
    browser.wait_for_text("#state", |text| text == "running");
    wait_for_step(browser, 3);
    let first = shown_step(browser);
    wait_for_step(browser, first + 2);
    browser.wait_for_text("#link", |text| text == "live");
    assert!(browser.text("title").contains("running · loss"), "{}", browser.text("title"));
    let drawn = "return [...document.querySelectorAll('#curves figure:not([hidden])')].map((figure) => {
        const canvas = figure.querySelector('canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        return [figure.dataset.curve, pixels.filter((value, index) => index % 4 === 3 && value > 60).length];
    })";
    let curves = |curves: &Value| -> Vec<(String, u64)> {
        let pair = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_u64().unwrap());
        curves.as_array().unwrap().iter().map(pair).collect()
    };
    let begun = Instant::now();
    loop {
        let now = curves(&browser.js(drawn));
        let names: Vec<&str> = now.iter().map(|(name, _)| name.as_str()).collect();
        let all = ["loss", "mlm_acc", "samples_per_second", "lr", "grad_norm"]
            .iter()
            .all(|name| names.contains(name));
        // Axes and labels alone are some hundred pixels of each.
        if all && now.iter().all(|(_, pixels)| *pixels > 600) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "not drawn: {now:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    browser.wait_for_text("#readiness", |text| text.starts_with("Training: step "));
    browser.wait_for_text("#log", |text| text.contains("step"));
    browser.wait_for_text("#plan", |text| text.lines().count() > 5);
    let ranks = browser
        .js("return [...document.querySelectorAll('#ranks tr')].map((row) => row.cells[0].textContent)");
    assert_eq!(ranks, json!(["0", "1"]));
    browser.wait_for_text("#pipeline", |text| {
        ["read", "view", "batch", "step"].iter().all(|stage| text.contains(stage))
    });
    browser.wait_for_text("#time", |text| text.contains("training") && text.contains("starting"));
    browser.wait_for_text("#stages", |text| text.contains("entropy") && text.contains('%'));
}

/// The fixed samples of the run directory, each picture loaded, with the captions of the index.
fn it_shows_pictures(browser: &Browser, daemon: &Daemon) {
    let begun = Instant::now();
    loop {
        let shown = browser.js(
            "return [...document.querySelectorAll('#pictures figure')].map((figure) => [
                figure.querySelector('figcaption').textContent,
                [...figure.querySelectorAll('img')].map((image) => image.complete && image.naturalWidth >= 56 && image.alt !== '')])",
        );
        let index: Value = serde_json::from_str(&get(daemon, "/api/v1/samples")).unwrap();
        let samples = index["samples"].as_array().map(Vec::as_slice).unwrap_or_default();
        let wanted = samples.iter().enumerate().map(|(number, sample)| {
            let (correct, masked) = (sample["correct"].as_u64().unwrap(), sample["masked"].as_u64().unwrap());
            let ratio = 100.0 * correct as f64 / masked as f64;
            let caption =
                format!("Sample {}: {correct} of {masked} masked tokens right ({ratio:.1} %)", number + 1);
            let kinds = ["view", "masked_view", "true", "predicted"];
            let pictures = kinds.iter().filter(|kind| sample[**kind].is_string()).map(|_| true);
            json!([caption, pictures.collect::<Vec<_>>()])
        });
        let wanted: Vec<Value> = wanted.collect();
        if !wanted.is_empty() && shown == json!(wanted) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "pictures shown: {shown}; the index: {wanted:?}");
        std::thread::sleep(Duration::from_millis(300));
    }
    let why = browser.text("#pictures-text");
    assert!(
        why.starts_with("Step ") && (why.contains("Tokens of") || why.contains("No reconstruction:")),
        "{why}"
    );
}

/// No token and a wrong one are told apart, and change nothing.
fn only_the_token_opens(browser: &Browser, daemon: &Daemon) {
    browser.click("#checkpoint");
    browser.wait_for_text("#control-result", |text| {
        text.starts_with("Enter the token first") && text.contains("daemon.token")
    });
    browser.fill("#token", "wrong");
    browser.click("#pause");
    browser.wait_for_text("#control-result", |text| text.starts_with("Wrong token") && text.contains(RUN));
    assert_eq!(board(daemon)["state"], "running");
}

fn a_click_saves_a_checkpoint(browser: &Browser, daemon: &Daemon) {
    let before = checkpoints(daemon);
    let token = std::fs::read_to_string(run_of(daemon).join("daemon.token")).unwrap();
    browser.fill("#token", token.trim());
    browser.click("#checkpoint");
    browser.wait_for_text("#control-result", |text| text.starts_with("Accepted"));
    daemon.wait_for("a checkpoint on disk", |daemon| checkpoints(daemon) > before);
    browser.wait_for_text("#events", |text| text.to_lowercase().contains("checkpoint"));
    browser.wait_for_text("[data-number='checkpoint']", |text| text.contains("ago, step"));
}

/// What is shown is what the API says, digit for digit.
fn numbers_equal_the_boards(browser: &Browser, daemon: &Daemon) {
    let board = board(daemon);
    let last = &board["last"];
    let number = |name: &str| last[name].as_f64().unwrap();
    let thin = |number: u64| {
        if number < 1000 {
            number.to_string()
        } else {
            format!("{}\u{202f}{:03}", number / 1000, number % 1000)
        }
    };
    for (name, wanted) in [
        ("loss", format!("{:.4}", number("loss"))),
        ("accuracy", format!("{:.2} %", 100.0 * number("mlm_acc"))),
        ("learning rate", format!("{:.2e}", number("lr"))),
        ("gradient norm", format!("{:.3}", number("grad_norm"))),
        ("epoch", thin(last["epoch"].as_u64().unwrap())),
        ("restarts", "0".to_owned()),
        ("corrupt", "0".to_owned()),
    ] {
        browser.wait_for_text(&format!("[data-number='{name}'] dd span"), |text| text == wanted);
    }
    let step = last["step"].as_u64().unwrap();
    browser.wait_for_text("#progress-text", |text| {
        text.starts_with(&format!("step {} of 100\u{202f}000", thin(step)))
    });
    let curve = browser.text("[data-curve='loss'] figcaption span");
    assert_eq!(curve, format!("{:.4}", number("loss")), "the curve ends at the step that the numbers show");
}

/// Names of files are markup nowhere.
fn names_stay_text(browser: &Browser) {
    assert_eq!(browser.text("h1"), RECIPE);
    let about = browser.text("#about");
    assert!(about.contains(RUN) && about.contains(SHARDS), "{about}");
    assert!(browser.text("#token-file").contains(RUN));
    let strange = "document.querySelectorAll('main img:not([src^=\"api/v1/samples/\"]), script:not([src]), main b, [onerror]').length";
    assert_eq!(browser.js(&format!("return [window.hacked ?? null, {strange}]")), json!([null, 0]));
}

/// By keyboard alone, and by axe's rules in both schemes and on a phone.
fn everybody_can_use_it(browser: &Browser) {
    browser.js("document.activeElement.blur(); scrollTo(0, 0)");
    let mut reached = Vec::new();
    for _ in 0..26 {
        browser.press('\u{E004}');
        reached.push(
            browser
                .js("return document.activeElement.id || document.activeElement.className")
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    for wanted in ["skip", "span", "token", "pause", "checkpoint", "stop", "events", "log", "follow", "plan"]
    {
        assert!(reached.iter().any(|id| id == wanted), "the tab key does not reach {wanted}: {reached:?}");
    }
    let axe = std::fs::read_to_string(npm("axe-core/axe.min.js")).unwrap();
    browser.js(&axe);
    let found = |browser: &Browser| {
        let rules = "axe.run(document).then((found) => found.violations.map((each) =>
            `${each.id}: ${each.help}: ${each.nodes.map((node) => node.html.slice(0, 120) + ' ' + node.failureSummary).join(' | ')}`))";
        browser.js_async(rules)
    };
    for (width, scheme) in [(1280, "light"), (1280, "dark"), (360, "dark")] {
        browser.look_like(width, scheme);
        assert_eq!(found(browser), json!([]), "{scheme}, {width} px wide");
    }
    // That axe sees something at all: grey on grey.
    browser.js("const p = document.createElement('p'); p.id = 'pale'; p.textContent = 'pale'; p.style.color = '#999';
                p.style.background = '#aaa'; document.querySelector('main').append(p)");
    assert!(found(browser).to_string().contains("color-contrast"));
    browser.js("document.getElementById('pale').remove()");
}

/// On a phone nothing sticks out; pictures of all looks are kept.
fn looks(browser: &Browser) {
    let folder = root().join("target/page");
    for (width, scheme, name) in [(1280, "light", "light"), (1280, "dark", "dark"), (360, "light", "phone")] {
        browser.look_like(width, scheme);
        let seen = browser.js(
            "const root = document.documentElement;
             return [root.scrollWidth, root.clientWidth, innerWidth, getComputedStyle(document.body).backgroundColor]",
        );
        assert_eq!(seen[0], seen[1], "{name}: it scrolls sideways");
        assert_eq!(seen[2], width, "{name}: something is wider than the screen");
        let dark = seen[3].as_str().unwrap().starts_with("rgb(14,");
        assert_eq!(dark, scheme == "dark", "{name}: {seen}");
        std::thread::sleep(Duration::from_millis(500)); // the curves follow the width at the next frame
        browser.picture(&folder.join(format!("{name}.png")));
    }
    browser.look_like(1280, "light");
}

/// Every request stays at home, the content policy refused nothing, nothing failed that should not.
fn nothing_foreign_and_nothing_refused(browser: &Browser, origin: &str) {
    let asked = browser.requests();
    assert!(asked.iter().any(|url| url.contains("/api/v1/events?after=")), "{asked:?}");
    // The browser's own start page is not ours, and `data:` is asked of nobody (from our page, the policy refuses it).
    let home = |url: &&String| [origin, "chrome:", "data:"].iter().any(|start| url.starts_with(start));
    let foreign: Vec<&String> = asked.iter().filter(|url| !home(url)).collect();
    assert!(foreign.is_empty(), "asked of strangers: {foreign:?}");
    let expected = |line: &String| {
        // The wrong token above; no pictures are made yet.
        (line.contains("/api/v1/pause") && line.contains("401"))
            || (line.contains("/api/v1/samples ") && line.contains("404"))
    };
    let bad: Vec<String> = browser.console().into_iter().filter(|line| !expected(line)).collect();
    assert!(bad.is_empty(), "the console says: {bad:#?}");
    assert_eq!(browser.js("return window.violations"), json!([]));
    // That the policy and its watch work at all: an inline script is refused, and seen.
    browser.js("const s = document.createElement('script'); s.textContent = 'window.hacked = 4'; document.body.append(s)");
    let seen = browser.js("return [window.hacked ?? null, window.violations.length]");
    assert_eq!(seen, json!([null, 1]), "{}", browser.js("return window.violations"));
}

/// Stop wants to be confirmed; then the page says that the daemon is gone, and keeps what it said last.
fn it_says_when_nobody_answers(browser: &Browser, daemon: &mut Daemon) {
    browser.click("#stop");
    assert_eq!(browser.js("return document.getElementById('stop-dialog').open"), true);
    browser.press('\u{E00C}');
    assert_eq!(browser.js("return document.getElementById('stop-dialog').open"), false);
    assert_eq!(board(daemon)["state"], "running", "escape changes nothing");
    browser.click("#stop");
    browser.click("#stop-yes");
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = daemon.child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "the run does not stop");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "{status}");
    browser.wait_for_text("#link", |text| text.contains("the daemon has ended"));
    assert!(shown_step(browser) > 0);
}

#[test]
fn a_lost_connection_is_told_and_found_again() {
    // A supervisor killed with -9, and the next one on its port.
    let home = home();
    let mut daemon = start(home.path(), "127.0.0.1:0");
    let address = daemon.address.clone();
    let browser = Browser::open();
    browser.go(&format!("http://{address}/"));
    wait_for_step(&browser, 1);
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    browser.wait_for_text("#link", |text| text.starts_with("connection lost"));
    assert_eq!(browser.js("return document.body.dataset.link"), "lost");
    let next = start(home.path(), &address);
    browser.wait_for_text("#link", |text| text == "live");
    browser.wait_for_text("#about", |text| text.contains(&format!("process {}", next.child.id())));
    wait_for_step(&browser, 2);
}

#[test]
fn vendored_files_are_those_of_the_package() {
    let folder = root().join("daemon/assets/vendor");
    let output =
        Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&folder).output();
    let output = output.expect("this test needs sha256sum (coreutils)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for file in std::fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let ours = ["README.md", "SHA256SUMS"].contains(&name.as_str());
        assert!(ours || said.contains(&format!("{name}: OK")), "{name} has no recorded hash");
        assert!(ours || readme.contains(&name), "vendor/README.md does not name {name}");
    }
}
