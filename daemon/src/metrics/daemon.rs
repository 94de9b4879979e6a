//! Series of the supervisor itself.

use prometheus::{Counter, CounterVec, Gauge, GaugeVec};

use super::book::Book;
use super::goodput::Class;
use super::{CAUSES, Goodput};
use crate::board::{State, now};

#[derive(Debug)]
pub(super) struct Daemon {
    run_info: GaugeVec,
    restarts: CounterVec,
    state: GaugeVec,
    pub worker_up: Gauge,
    pub ready: Gauge,
    http_requests: CounterVec,
    time: Vec<(Class, Counter)>,
}

impl Daemon {
    pub fn new(book: &Book) -> prometheus::Result<Daemon> {
        let build = [
            env!("CARGO_PKG_VERSION"),
            if cfg!(debug_assertions) { "debug" } else { "release" },
            std::env::consts::ARCH,
        ];
        book.gauges(
            "beit_daemon_build_info",
            "1; the build is in the labels.",
            &["version", "profile", "arch"],
        )?
        .with_label_values(&build)
        .set(1.0);
        book.gauge(
            "beit_daemon_start_timestamp_seconds",
            "When the supervisor started, seconds since 1970.",
        )?
        .set(now());
        let time = book.counters(
            "beit_daemon_time_seconds_total",
            "The supervisor's life by what it went for; productive over all is the goodput.",
            &["class"],
        )?;
        let daemon = Daemon {
            run_info: book.gauges(
                "beit_daemon_run_info",
                "1; the run is in the labels.",
                &["run", "recipe", "device"],
            )?,
            restarts: book.counters(
                "beit_daemon_restarts_total",
                "Workers that died and were replaced, by cause.",
                &["cause"],
            )?,
            state: book.gauges(
                "beit_daemon_state",
                "1 for the state the supervisor is in, 0 for the others.",
                &["state"],
            )?,
            worker_up: book.gauge("beit_daemon_worker_up", "1 while a worker process lives.")?,
            ready: book.gauge("beit_daemon_ready", "1 while training makes progress, as /readyz says.")?,
            http_requests: book.counters(
                "beit_daemon_http_requests_total",
                "HTTP requests answered, by class of status.",
                &["status"],
            )?,
            time: Class::ALL.map(|class| (class, time.with_label_values(&[class.word()]))).to_vec(),
        };
        CAUSES.iter().for_each(|cause| drop(daemon.restarts.with_label_values(&[cause])));
        for class in ["2xx", "4xx", "5xx"] {
            let _ = daemon.http_requests.with_label_values(&[class]);
        }
        Ok(daemon)
    }

    pub fn set_run(&self, run: &str, recipe: &str, device: &str) {
        self.run_info.reset();
        self.run_info.with_label_values(&[run, recipe, device]).set(1.0);
    }

    pub fn restarted(&self, cause: &str) {
        self.restarts.with_label_values(&[cause]).inc();
    }

    pub fn set_state(&self, state: State) {
        for each in State::ALL {
            self.state.with_label_values(&[each.word()]).set(f64::from(u8::from(each == state)));
        }
    }

    pub fn answered(&self, status: u16) {
        let class = match status {
            0..400 => "2xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.http_requests.with_label_values(&[class]).inc();
    }

    /// The books of the supervisor's time, which only rise.
    pub fn show_time(&self, goodput: &Goodput) {
        for (class, counter) in &self.time {
            counter.inc_by((goodput.seconds(*class) - counter.get()).max(0.0));
        }
    }
}
