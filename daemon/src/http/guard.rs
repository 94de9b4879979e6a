//! Who may ask: the token for what changes the run, and no web page of a stranger for the rest.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};

/// Wrong tokens heard out before one is told to wait.
const GUESSES: f64 = 10.0;

/// Guesses forgiven in a second.
const FORGIVEN: f64 = 1.0;

/// A log line about wrong tokens, at most this often.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What came of looking at a request's token.
#[derive(Debug, PartialEq)]
pub enum Pass {
    /// It is the token.
    Right,
    /// There is none, or it is another one.
    Wrong,
    /// It is another one, as were many before it.
    TooMany,
}

/// The token of a run, and how often somebody was wrong about it.
#[derive(Debug)]
pub struct Guard {
    token: String,
    guesses: Mutex<Guesses>,
}

#[derive(Debug)]
struct Guesses {
    left: f64,
    at: Instant,
    told: Option<Instant>,
    untold: u64,
}

impl Guard {
    /// Lets pass who knows this token.
    pub fn new(token: String) -> Guard {
        let guesses = Guesses { left: GUESSES, at: Instant::now(), told: None, untold: 0 };
        Guard { token, guesses: Mutex::new(guesses) }
    }

    /// Looks at the token of a request from `peer`. The right one passes always: nobody can lock its owner out.
    pub fn check(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Pass {
        let Some(given) = bearer(headers) else { return Pass::Wrong };
        if same(given.as_bytes(), self.token.as_bytes()) {
            return Pass::Right;
        }
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now(), peer)
    }
}

impl Guesses {
    fn count(&mut self, now: Instant, peer: Option<IpAddr>) -> Pass {
        self.untold += 1;
        if self.told.is_none_or(|at| now.duration_since(at) >= TELL_EVERY) {
            let from = peer.map_or_else(|| "somewhere".to_owned(), |peer| peer.to_string());
            tracing::warn!(
                "Wrong tokens at the API: {} since the last such line, the last from {from}.",
                self.untold
            );
            self.told = Some(now);
            self.untold = 0;
        }
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * FORGIVEN).min(GUESSES);
        self.at = now;
        if self.left < 1.0 {
            return Pass::TooMany;
        }
        self.left -= 1.0;
        Pass::Wrong
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Compares in a time that tells nothing about the place of a difference.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

/// Whether a request for this host may be answered by a server that only this machine reaches.
///
/// A browser here would run a stranger's page whose domain suddenly points to 127.0.0.1 (DNS rebinding), and that page
/// could read the answers. It cannot hide the domain, though: so no domain passes but `localhost`. Addresses do, and
/// names without a dot, which are those of machines and not for sale.
pub fn is_ours(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => return rest.split(']').next().is_some_and(|ip| ip.parse::<IpAddr>().is_ok()),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name).trim_end_matches('.'),
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || last.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        headers
    }

    #[test]
    fn only_the_token_passes() {
        let guard = Guard::new("secret".into());
        for (given, expect) in [
            ("Bearer secret", Pass::Right),
            ("bearer  secret ", Pass::Right),
            ("Bearer secre", Pass::Wrong),
            ("Bearer secret2", Pass::Wrong),
            ("Basic secret", Pass::Wrong),
            ("secret", Pass::Wrong),
        ] {
            assert_eq!(guard.check(&with(given), None), expect, "{given}");
        }
        assert_eq!(guard.check(&HeaderMap::new(), None), Pass::Wrong);
    }

    #[test]
    fn who_guesses_must_wait_and_who_knows_need_not() {
        let guard = Guard::new("secret".into());
        let outcomes: Vec<Pass> = (0..100).map(|_| guard.check(&with("Bearer guess"), None)).collect();
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == Pass::Wrong).count(), GUESSES as usize);
        assert_eq!(outcomes.last(), Some(&Pass::TooMany));
        assert_eq!(guard.check(&with("Bearer secret"), None), Pass::Right);
        let later = Instant::now() + Duration::from_secs(2);
        let mut guesses = guard.guesses.lock().unwrap();
        assert_eq!([(); 3].map(|()| guesses.count(later, None)), [Pass::Wrong, Pass::Wrong, Pass::TooMany]);
    }

    #[test]
    fn strangers_domains_are_told_from_this_machine() {
        for ours in [
            "localhost:9777",
            "LOCALHOST",
            "127.0.0.1:9777",
            "10.0.0.7",
            "[::1]:9777",
            "[::1]",
            "gpu-7:9777",
            "",
            "run.localhost:1",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:9777",
            "evil.example.",
            "127.0.0.1.evil.example:9777",
            "[evil.example]:1",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}
