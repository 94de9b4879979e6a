//! The page at `/` and what it is made of: files of `daemon/assets`, embedded in the binary and served as they are.
//!
//! The page is for those without Grafana. It has no build step: plain HTML, CSS and ES modules, and one vendored chart
//! library (`daemon/assets/vendor/README.md`). What it shows it asks of the API as any client would; `docs/page.md` says
//! what each part means.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// What the page may load: its own files and the API, nothing inline and nothing of strangers.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One embedded file.
#[derive(Debug)]
struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Names a file of `daemon/assets`.
macro_rules! asset {
    ($name:literal, $path:literal, $kind:expr) => {
        Asset { name: $name, kind: $kind, bytes: include_bytes!(concat!("../assets/", $path)) }
    };
}

const HOME: Asset = asset!("", "index.html", HTML);

const ASSETS: [Asset; 12] = [
    asset!("page.css", "page.css", CSS),
    asset!("page.js", "page.js", SCRIPT),
    asset!("words.js", "words.js", SCRIPT),
    asset!("feed.js", "feed.js", SCRIPT),
    asset!("show.js", "show.js", SCRIPT),
    asset!("curves.js", "curves.js", SCRIPT),
    asset!("pictures.js", "pictures.js", SCRIPT),
    asset!("control.js", "control.js", SCRIPT),
    asset!("log.js", "log.js", SCRIPT),
    asset!("icon.svg", "icon.svg", "image/svg+xml"),
    asset!("uplot.js", "vendor/uPlot.iife.min.js", SCRIPT),
    asset!("uplot.css", "vendor/uPlot.min.css", CSS),
];

/// `/` and `/assets/…`, for a router of any state.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { HOME.answer(&headers) }))
        .route("/assets/{name}", get(asset))
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => asset.answer(&headers),
        None => (StatusCode::NOT_FOUND, "no such file; the page is at /\n").into_response(),
    }
}

impl Asset {
    /// The file, or 304 to a browser that has it. Browsers keep it but ask each time: a new binary shows at once.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let known = known.is_some_and(|tags| tags.split(',').any(|each| each.trim() == tag));
        let mut response = match known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => ([(header::CONTENT_TYPE, self.kind)], self.bytes).into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        response
    }

    /// Names the content; equal in every process of one binary.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(asset: &Asset) -> &'static str {
        std::str::from_utf8(asset.bytes).unwrap()
    }

    /// The parts of `text` between `open` and the next `"`.
    fn quoted<'a>(text: &'a str, open: &str) -> Vec<&'a str> {
        text.split(open).skip(1).filter_map(|rest| rest.split('"').next()).collect()
    }

    #[test]
    fn every_file_the_page_names_is_served_and_every_served_file_is_named() {
        let mut named: Vec<&str> = quoted(text(&HOME), "\"assets/");
        for script in ASSETS.iter().filter(|asset| asset.kind == SCRIPT) {
            named.extend(quoted(text(script), "from \"./"));
        }
        named.sort_unstable();
        named.dedup();
        let mut served: Vec<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        served.sort_unstable();
        assert_eq!(named, served);
    }

    #[test]
    fn the_page_asks_nothing_of_strangers_and_has_nothing_inline() {
        for asset in ASSETS.iter().chain([&HOME]).filter(|asset| !asset.name.starts_with("uplot")) {
            let text = text(asset).replace("http://www.w3.org/2000/svg", "");
            for word in [
                "http://",
                "https://",
                "//cdn",
                "style=\"",
                "<style",
                "onclick=",
                "onload=",
                "javascript:",
                "\"data:",
                "(data:",
            ] {
                assert!(!text.contains(word), "{}: {word}", asset.name);
            }
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
            {
                assert!(!text.contains(word), "{}: {word} makes markup or code of data", asset.name);
            }
        }
        assert_eq!(text(&HOME).matches("<script").count(), text(&HOME).matches("<script src=").count());
    }

    #[test]
    fn a_browser_that_has_a_file_is_told_so() {
        let first = HOME.answer(&HeaderMap::new());
        assert_eq!(
            (first.status(), &first.headers()[header::CACHE_CONTROL]),
            (StatusCode::OK, &"no-cache".parse().unwrap())
        );
        let mut again = HeaderMap::new();
        again.insert(header::IF_NONE_MATCH, format!("\"x\", {}", HOME.tag()).parse().unwrap());
        assert_eq!(HOME.answer(&again).status(), StatusCode::NOT_MODIFIED);
        assert_ne!(HOME.tag(), ASSETS[0].tag());
    }
}
