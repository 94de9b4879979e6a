//! `/metrics` of a run that trains, stalls and dies, as Prometheus sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::daemon::{Daemon, home, kill};
use crate::house::{command, promtool, without_tools};

/// One scrape.
struct Scrape {
    text: String,
    series: BTreeMap<String, f64>,
    /// When it was asked for, seconds since 1970.
    at: f64,
}

impl Scrape {
    #[track_caller]
    fn of(daemon: &Daemon) -> Scrape {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let answer = daemon.ask("GET /metrics");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Scrape { series: series.collect(), text: text.to_owned(), at }
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in:\n{}", self.text))
    }

    /// All series of a name, with their labels.
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let ours = move |series: &str| series.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        self.series.iter().filter(move |(series, _)| ours(series)).map(|(series, value)| (&**series, *value))
    }

    fn sum(&self, name: &str) -> f64 {
        self.all(name).map(|(_, value)| value).sum()
    }

    /// Counters, and the parts of histograms.
    fn rising(&self) -> BTreeMap<&str, f64> {
        let types = self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let kinds: BTreeMap<&str, &str> = types.collect();
        let kind = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            family.and_then(|family| kinds.get(family)).or_else(|| kinds.get(name)).copied()
        };
        let rises = |series: &str| matches!(kind(series), Some("counter" | "histogram"));
        let series = self.series.iter().filter(|(series, _)| rises(series));
        series.map(|(series, value)| (series.as_str(), *value)).collect()
    }
}

#[test]
fn a_scrape_tells_of_a_stall_and_its_counters_outlive_the_worker() {
    let home = home();
    let daemon = Daemon::start(home.path(), &["--steps", "100000", "--set", "save_every_steps=100000"]);
    daemon.wait_for_step(3.0);
    let order = command("beit-daemon", &["checkpoint", "--run", "run"]).current_dir(home.path()).output();
    assert!(order.unwrap().status.success());
    // Work for some reports, which a death makes worthless.
    daemon.wait_for("steps after the checkpoint", |daemon| {
        let scrape = Scrape::of(daemon);
        scrape.get("beit_trainer_checkpoint_age_seconds") > 2.0
            && scrape.get("beit_trainer_step") > scrape.get("beit_trainer_checkpoint_step") + 5.0
    });
    let calm = Scrape::of(&daemon);
    assert_eq!(promtool(&calm.text), "");
    let spoiled = calm.text.replace("_bucket{", "_barrel{");
    assert!(without_tools() || !promtool(&spoiled).is_empty(), "promtool looks at what it gets");
    check_counts(&calm);

    let worker = daemon.worker();
    kill("STOP", worker);
    let seconds = |scrape: &Scrape| scrape.get("beit_trainer_stage_seconds{rank=\"1\"}");
    daemon.wait_for("the stall to show", |daemon| seconds(&Scrape::of(daemon)) > 1.5);
    let stalled = Scrape::of(&daemon);
    std::thread::sleep(Duration::from_millis(300));
    let later = Scrape::of(&daemon);
    assert!(seconds(&later) > seconds(&stalled) + 0.25, "{} and {}", seconds(&stalled), seconds(&later));
    for rank in ["0", "1"] {
        let of_rank = format!("rank=\"{rank}\"");
        let stages = later.all("beit_trainer_stage").filter(|(series, _)| series.contains(&of_rank));
        assert_eq!(stages.map(|(_, on)| on).sum::<f64>(), 1.0, "a rank is in one stage");
    }
    for stage in ["read", "view", "batch", "step"] {
        let series = format!("beit_pipeline_last_activity_timestamp_seconds{{stage=\"{stage}\"}}");
        assert!(later.get(&series) > 0.0 && later.get(&series) < later.at - 1.0, "{stage} is still active");
        assert_eq!(later.get(&series), stalled.get(&series), "{stage} moves in a stall");
    }

    kill("KILL", worker);
    daemon.wait_for("a new worker that does steps again", |daemon| {
        Scrape::of(daemon).get("beit_daemon_time_seconds_total{class=\"recompute\"}") > 0.0
    });
    let after = Scrape::of(&daemon);
    let again = after.rising();
    for (series, value) in stalled.rising() {
        assert!(again[series] >= value, "{series} fell from {value} to {}", again[series]);
    }
    assert_eq!(after.get("beit_daemon_restarts_total{cause=\"signal\"}"), 1.0);
    assert!(
        after.get("beit_daemon_time_seconds_total{class=\"restart\"}") > 1.5,
        "the stall was for nothing"
    );
    assert!(
        after.get("beit_trainer_step_duration_seconds_count{rank=\"0\"}")
            > stalled.get("beit_trainer_step_duration_seconds_count{rank=\"0\"}"),
        "histograms go on in the next worker"
    );
    assert_eq!(promtool(&after.text), "");
    let names = |scrape: &Scrape| scrape.series.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&calm), names(&after), "no series comes or goes");
}

/// What must hold between the numbers of a run in which nothing has gone wrong.
#[track_caller]
fn check_counts(scrape: &Scrape) {
    let steps = scrape.get("beit_trainer_steps_total");
    for rank in ["0", "1"] {
        let count = |name: &str| scrape.get(&format!("{name}_count{{rank=\"{rank}\"}}"));
        // Reports are not taken in one instant, so a rank may be a step ahead.
        for name in ["beit_trainer_step_duration_seconds", "beit_trainer_all_reduce_seconds"] {
            assert!((count(name) - steps).abs() <= 1.0, "{name}: {} in {steps} steps", count(name));
        }
        assert!(count("beit_trainer_data_wait_seconds") >= steps);
        let ready = scrape.get(&format!("beit_loader_ready_ratio{{rank=\"{rank}\"}}"));
        assert!((0.0..=1.0).contains(&ready), "{ready}");
        let step_seconds = scrape.get(&format!("beit_trainer_step_duration_seconds_sum{{rank=\"{rank}\"}}"));
        let waits = ["data_wait", "all_reduce"]
            .map(|wait| scrape.get(&format!("beit_trainer_{wait}_seconds_sum{{rank=\"{rank}\"}}")));
        assert!(
            step_seconds > 0.0 && waits.iter().sum::<f64>() <= step_seconds,
            "{waits:?} in {step_seconds}"
        );
    }
    // A rank waits for the slower one in every step but those it is slower in.
    assert!(scrape.sum("beit_trainer_all_reduce_seconds_sum") > 0.0);
    assert_eq!(
        scrape.get("beit_loader_decode_seconds_count"),
        scrape.get("beit_pipeline_items_out_total{stage=\"view\"}"),
        "a decode for each view"
    );
    assert!(scrape.get("beit_loader_decode_seconds_sum") > 0.0);
    assert_eq!(
        scrape.get("beit_loader_records_total"),
        scrape.get("beit_pipeline_items_in_total{stage=\"read\"}"),
        "no record was refused"
    );
    let tokens = scrape.get("beit_trainer_tokens_total");
    assert_eq!(tokens, 196.0 * scrape.get("beit_trainer_samples_total"), "14 x 14 patches");
    assert!(scrape.get("beit_pipeline_items_out_total{stage=\"checkpoint\"}") >= 1.0);
    for stage in ["read", "view", "batch", "step", "checkpoint"] {
        let of = |what: &str| scrape.get(&format!("beit_pipeline_items_{what}_total{{stage=\"{stage}\"}}"));
        assert!(of("out") > 0.0 && of("in") >= of("out"), "{stage}: {} in, {} out", of("in"), of("out"));
    }
    for process in ["supervisor", "worker"] {
        let of = |what: &str| scrape.get(&format!("beit_daemon_process_{what}{{process=\"{process}\"}}"));
        assert!(of("resident_memory_bytes") > 1e6 && of("cpu_seconds_total") > 0.0, "{process}");
    }
    assert_eq!(
        scrape.get("beit_daemon_run_info{device=\"cpu\",recipe=\"pretrain-tiny-cpu\",run=\"run\"}"),
        1.0
    );
    assert_eq!(scrape.get("beit_trainer_loss_scale"), 1.0);
    assert!(scrape.get("beit_loader_corrupt_budget_samples") > 0.0);

    // The classes add up to the supervisor's life, but for the step under way and the report before it.
    let life = scrape.at - scrape.get("beit_daemon_start_timestamp_seconds");
    let booked = scrape.sum("beit_daemon_time_seconds_total");
    assert!(booked <= life + 0.5 && booked > 0.5 * life, "{booked} s of {life} s:\n{}", scrape.text);
    for class in ["productive", "start"] {
        assert!(scrape.get(&format!("beit_daemon_time_seconds_total{{class=\"{class}\"}}")) > 0.0, "{class}");
    }
}
