use super::*;
use crate::wire::RankSample;

fn sample(step: u64) -> Sample {
    let rank = RankSample { data_wait_seconds: step as f64 * 0.25, ..RankSample::default() };
    Sample {
        step,
        loss: 9.0 - step as f64 / 1e6,
        lr: 1e-3,
        last_step_at: Some(1e9 + step as f64),
        ranks: vec![rank.clone(), rank],
        ..Sample::default()
    }
}

fn fill(history: &History, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        history.add(&sample(step), 1.0, false);
    }
}

fn steps(history: &History) -> Vec<u64> {
    history.columns(None, POINTS).step
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

#[test]
fn a_long_run_stays_bounded_evenly_spread_and_current() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let history = History::open(path.clone());
    for step in (1..=100_000).step_by(7) {
        history.add(&sample(step), 10.0, false);
        assert!(history.lock().points.len() < POINTS);
    }
    let kept = steps(&history);
    assert!(kept.len() >= POINTS / 2, "{}", kept.len());
    let widest = kept.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(kept[0] == 1 && widest <= 200, "{widest}");
    assert!(*kept.last().unwrap() > 99_800);
    assert_eq!(lines(&path), kept.len(), "the file holds what memory holds");
    assert_eq!(steps(&History::open(path)), kept);
}

#[test]
fn the_last_step_of_a_run_is_shown_however_close_it_is() {
    let history = History::default();
    for step in 1..=3 * POINTS as u64 {
        history.add(&sample(step), 1.0, false);
    }
    let last = *steps(&history).last().unwrap();
    assert!(history.add(&sample(last + 1), 1.0, false).is_none());
    assert!(history.add(&sample(last + 1), 1.0, true).is_some());
    assert!(history.add(&sample(last + 1), 1.0, true).is_none(), "but only once");
}

#[test]
fn a_kill_in_the_middle_of_a_line_loses_that_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let history = History::open(path.clone());
    fill(&history, 1..=5);
    let whole = fs::read(&path).unwrap();
    for cut in 2..60 {
        fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let again = History::open(path.clone());
        assert_eq!(steps(&again), [1, 2, 3, 4], "{cut} bytes are missing");
        again.add(&sample(5), 1.0, false);
        assert_eq!(steps(&History::open(path.clone())), [1, 2, 3, 4, 5]);
    }
    fs::write(&path, b"\xff\xfe not ours\n{\"step\":1}\n\n[]\n").unwrap();
    assert!(steps(&History::open(path.clone())).is_empty());
    assert_eq!(lines(&path), 0, "what is no point is gone");
}

#[test]
fn a_run_that_goes_back_takes_its_later_points_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.jsonl");
    let history = History::open(path.clone());
    fill(&history, 1..=10);
    history.go_back_to(10);
    assert_eq!(steps(&history).len(), 10);
    history.go_back_to(6);
    assert_eq!(steps(&history), [1, 2, 3, 4, 5, 6]);
    assert_eq!(lines(&path), 6);
    history.add(&sample(7), 1.0, false);
    assert_eq!(steps(&History::open(path.clone())), [1, 2, 3, 4, 5, 6, 7]);
    // An older daemon, killed before it could take them back.
    fs::write(&path, text(&[point(5), point(6), point(7), point(6)])).unwrap();
    assert_eq!(steps(&History::open(path)), [5, 6]);
}

fn point(step: u64) -> Point {
    History::default().add(&sample(step), 1.0, false).unwrap()
}

#[test]
fn what_is_no_number_travels_as_null() {
    let history = History::default();
    history.add(&Sample { loss: f64::NAN, grad_norm: f64::INFINITY, ..sample(1) }, 1.0, false);
    history.add(&sample(2), 1.0, false);
    let json = serde_json::to_value(history.columns(None, 10)).unwrap();
    assert_eq!(json["loss"][0], serde_json::Value::Null);
    assert_eq!(json["grad_norm"][0], serde_json::Value::Null);
    assert_eq!(json["data_wait_ratio"], serde_json::json!([null, 0.25]), "two ranks waited a quarter each");
    let text = text(&[point(1)]);
    assert!(serde_json::from_slice::<Point>(&text).unwrap().data_wait_ratio.is_nan());
}

#[test]
fn readers_choose_from_where_and_how_much() {
    let history = History::default();
    fill(&history, 1..=100);
    assert_eq!(history.columns(Some(97), 10).step, [98, 99, 100]);
    assert_eq!(history.columns(None, 3).step, [1, 50, 100]);
    assert_eq!(history.columns(None, 0).step, [100]);
    assert!(history.columns(Some(100), 10).step.is_empty());
    let columns = history.columns(None, usize::MAX);
    let lengths = [columns.at.len(), columns.loss.len(), columns.mlm_acc.len(), columns.lr.len()];
    assert_eq!(lengths, [100; 4]);
}

#[test]
fn a_folder_that_cannot_be_written_costs_the_run_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone");
    let path = gone.join("history.jsonl");
    let history = History::open(path.clone());
    history.add(&sample(1), 1.0, false);
    history.add(&sample(2), 1.0, false);
    assert_eq!(steps(&history), [1, 2], "memory keeps them");
    fs::create_dir(&gone).unwrap();
    locked(history.page.as_ref().unwrap()).failed = None; // as if the pause were over
    history.add(&sample(3), 1.0, false);
    assert_eq!(steps(&History::open(path)), [1, 2, 3], "and the file catches up");
}
