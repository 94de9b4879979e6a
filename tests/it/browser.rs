//! A headless Chromium, driven through chromedriver by the WebDriver protocol and, where that has no word for
//! something (schemes, viewports, violations), by the browser's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::house::tool;

/// Longest wait for anything; browser and training share their cores with other tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// The name under which WebDriver hands out elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// What works as root, in a container, without a screen, and asks nothing of the network by itself.
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
];

/// Runs before any script of a page: remembers what the content policy refused.
const WATCH: &str = "window.violations = [];
    document.addEventListener('securitypolicyviolation', (e) => window.violations.push(e.violatedDirective + ' ' + e.blockedURI));";

/// One browser with an empty profile; gone with its driver when dropped.
pub struct Browser {
    driver: Child,
    address: String,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    #[track_caller]
    pub fn open() -> Browser {
        let (chromium, driver) = (tool("chromium"), tool("chromedriver"));
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let rest = line.split_once("started successfully on port ")?.1.trim_end_matches('.').to_owned();
            rest.parse::<u16>().ok()
        });
        let profile = tempfile::tempdir().unwrap();
        let port = port.expect("chromedriver ended before it listened");
        let mut browser = Browser {
            driver,
            address: format!("127.0.0.1:{port}"),
            session: String::new(),
            _profile: profile,
        };
        let mut args: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        args.push(format!("--user-data-dir={}", browser._profile.path().display()));
        let options = json!({"binary": chromium, "args": args});
        let wish = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": 60_000, "pageLoad": 60_000},
        }}});
        let session = browser.send("POST", "/session", Some(&wish)).unwrap();
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", &json!({"source": WATCH}));
        browser
    }

    /// One WebDriver command; the error is the driver's message.
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream =
            TcpStream::connect(&self.address).map_err(|error| format!("chromedriver: {error}"))?;
        stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .map_err(|error| format!("chromedriver: {error}"))?;
        // chromedriver keeps the connection open, whatever it is asked for: the length tells the end.
        let mut answer = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while answer.read_line(&mut line).map_err(|error| format!("chromedriver: {error}"))? > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(|_| format!("chromedriver: {line}"))?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body).map_err(|error| format!("chromedriver: {error}"))?;
        let answer: Value =
            serde_json::from_slice(&body).map_err(|error| format!("chromedriver: {error}"))?;
        let value = answer["value"].clone();
        match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(format!("{error}: {}", value["message"].as_str().unwrap_or_default())),
            None => Ok(value),
        }
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        let path = format!("{}{path}", self.session);
        self.send("POST", &path, Some(body)).unwrap_or_else(|error| panic!("{path} {body:.200}: {error}"))
    }

    /// A command of the browser's own protocol.
    #[track_caller]
    pub fn cdp(&self, command: &str, params: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": params}))
    }

    /// Opens an address and waits until it has loaded.
    #[track_caller]
    pub fn go(&self, url: &str) {
        self.post("/url", &json!({"url": url}));
    }

    /// Runs a function's body in the page.
    #[track_caller]
    pub fn js(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// The same for a promise.
    #[track_caller]
    pub fn js_async(&self, promise: &str) -> Value {
        let script =
            format!("const done = arguments[0]; ({promise}).then(done, (e) => done({{failed: String(e)}}));");
        self.post("/execute/async", &json!({"script": script, "args": []}))
    }

    /// What the element says.
    #[track_caller]
    pub fn text(&self, css: &str) -> String {
        let script = format!("return document.querySelector({}).textContent", json!(css));
        self.js(&script).as_str().unwrap().to_owned()
    }

    /// Waits until an element's text is as wanted; returns it.
    #[track_caller]
    pub fn wait_for_text(&self, css: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let text = self.text(css);
            if wanted(&text) {
                return text;
            }
            if begun.elapsed() > PATIENCE {
                let console = self.console();
                let newest = &console[console.len().saturating_sub(8)..];
                panic!("waited in vain; {css} says {text:?}; the console, at its end: {newest:#?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let found = self.post("/element", &json!({"using": "css selector", "value": css}));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks as a mouse does: scrolled to, in its middle, refused when something lies above it.
    #[track_caller]
    pub fn click(&self, css: &str) {
        self.post(&format!("/element/{}/click", self.element(css)), &json!({}));
    }

    /// Empties a field and types into it.
    #[track_caller]
    pub fn fill(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.post(&format!("/element/{element}/clear"), &json!({}));
        self.post(&format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Presses one key, in WebDriver's private codes (tab: `\u{E004}`, escape: `\u{E00C}`, enter: `\u{E007}`).
    #[track_caller]
    pub fn press(&self, key: char) {
        let key = key.to_string();
        let keys = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]}));
    }

    /// Looks as a machine of this width (in px) and colour scheme would.
    #[track_caller]
    pub fn look_like(&self, width: u32, scheme: &str) {
        let mobile = width < 600;
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile});
        self.cdp("Emulation.setDeviceMetricsOverride", &size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.cdp("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Writes a picture of the whole page.
    #[track_caller]
    pub fn picture(&self, path: &Path) {
        let size =
            self.js("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]");
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let shot = self.cdp("Page.captureScreenshot", &json!({"captureBeyondViewport": true, "clip": clip}));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, base64(shot["data"].as_str().unwrap())).unwrap();
    }

    /// Everything said on the console since the last call, levels in front.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let line = |entry: &Value| {
            format!("{} {}", entry["level"].as_str().unwrap(), entry["message"].as_str().unwrap())
        };
        entries.as_array().unwrap().iter().map(line).collect()
    }

    /// Addresses asked for since the last call, by any part of the page.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "performance"}));
        let inner = entries.as_array().unwrap().iter().filter_map(|entry| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            (message["method"] == "Network.requestWillBeSent")
                .then(|| message["params"]["request"]["url"].as_str().map(str::to_owned))?
        });
        inner.collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.send("DELETE", &self.session, None);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Decodes base64 as browsers write it.
fn base64(text: &str) -> Vec<u8> {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for sign in text.bytes().filter(|sign| *sign != b'=') {
        let value = SIGNS.iter().position(|each| *each == sign).expect("base64");
        bits = (bits << 6) | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}
