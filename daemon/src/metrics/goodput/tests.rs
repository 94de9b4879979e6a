//! Lives of supervisors, told as tables: what happened when, and what it must have gone for.

use std::time::Duration;

use super::*;
use crate::wire::RankSample;

#[derive(Clone, Copy)]
enum Happens {
    Worker,
    /// Steps of this worker, step of the run, and what rank 0 and rank 1 lost: data, checkpoint, paused.
    Report(u64, u64, [f64; 3], [f64; 3]),
    Dies,
    Ends,
    Stop,
    Scrape,
}

use Happens::{Dies, Ends, Report, Scrape, Stop, Worker};

const NOTHING: [f64; 3] = [0.0; 3];

fn lost([data, checkpoint, paused]: [f64; 3]) -> RankSample {
    RankSample { lost: Lost { data, checkpoint, paused }, ..RankSample::default() }
}

/// Tells a life; `expect` names every class that is not 0.
#[track_caller]
fn check(life: &[(f64, Happens)], expect: &[(Class, f64)], open: f64) {
    let born = Instant::now();
    let mut books = Goodput::new(born);
    for (second, happens) in life {
        let at = born + Duration::from_secs_f64(*second);
        let before = books.seconds;
        match happens {
            Worker => books.worker_started(at),
            Report(steps_done, step, first, second) => {
                let ranks = vec![lost(*first), lost(*second)];
                books
                    .report(at, &Sample { steps_done: *steps_done, step: *step, ranks, ..Sample::default() });
            }
            Dies => books.worker_gone(at, true),
            Ends => books.worker_gone(at, false),
            Stop => books.stop(at),
            Scrape => books.look(at),
        }
        assert!(books.seconds.iter().zip(before).all(|(now, before)| *now >= before), "a class fell");
    }
    for class in Class::ALL {
        let expect = expect.iter().find(|(each, _)| *each == class).map_or(0.0, |(_, seconds)| *seconds);
        let found = books.seconds(class);
        assert!((found - expect).abs() < 1e-9, "{}: {found} instead of {expect}", class.word());
    }
    let (all, end) = (books.seconds.iter().sum::<f64>(), life.last().unwrap().0);
    assert!((all + open - end).abs() < 1e-9, "{all} and {open} open do not add up to {end}");
}

#[test]
fn a_calm_life() {
    check(
        &[
            (1.0, Worker),
            (2.0, Report(0, 0, [0.9, 0.0, 0.0], NOTHING)), // waiting for the first batch belongs to the start
            (4.0, Report(1, 1, [1.5, 0.0, 0.0], NOTHING)),
            (5.0, Report(2, 2, [1.75, 0.0, 0.0], [0.5, 0.0, 0.0])), // rank 1 waited longer
            (6.0, Report(2, 2, [1.75, 0.0, 0.0], [0.5, 0.0, 0.0])),
            (8.0, Report(5, 5, [1.75, 0.25, 0.0], [0.5, 0.0, 0.0])),
            (9.0, Ends),
            (10.0, Stop),
        ],
        &[
            (Class::Start, 4.0),
            (Class::Data, 0.5),
            (Class::Checkpoint, 0.25),
            (Class::Productive, 3.25),
            (Class::Stop, 2.0),
        ],
        0.0,
    );
}

#[test]
fn a_death_costs_the_step_under_way_the_pause_and_what_is_done_again() {
    check(
        &[
            (0.0, Worker),
            (1.0, Report(1, 1, NOTHING, NOTHING)),
            (5.0, Report(9, 9, NOTHING, NOTHING)),
            (6.0, Report(9, 9, NOTHING, NOTHING)), // hangs in step 10, and is killed for it
            (26.0, Dies),
            (30.0, Worker),
            (33.0, Report(1, 5, NOTHING, NOTHING)), // from the checkpoint of step 4
            (35.0, Report(3, 7, NOTHING, NOTHING)),
            (39.0, Report(7, 11, NOTHING, NOTHING)), // 8 and 9 again, 10 and 11 for the first time
        ],
        &[
            (Class::Start, 4.0),
            (Class::Productive, 4.0 + 2.0),
            (Class::Restart, 21.0 + 4.0),
            (Class::Recompute, 2.0 + 2.0),
        ],
        0.0,
    );
}

#[test]
fn a_pause_and_a_wait_are_booked_while_they_last_and_a_step_when_it_is_done() {
    check(
        &[
            (0.0, Worker),
            (1.0, Report(1, 1, NOTHING, NOTHING)),
            (3.0, Report(1, 1, [0.0, 0.0, 1.5], [0.0, 0.0, 1.5])),
            (4.0, Scrape),
            (5.0, Report(1, 1, [0.5, 0.0, 2.5], [0.25, 0.0, 2.5])),
            (6.0, Scrape),
        ],
        &[(Class::Start, 1.0), (Class::Paused, 2.5), (Class::Data, 0.5)],
        2.0,
    );
}

#[test]
fn a_stop_costs_from_the_request_on_and_the_step_under_way_still_counts() {
    check(
        &[
            (0.0, Worker),
            (1.0, Report(1, 1, NOTHING, NOTHING)),
            (2.0, Stop),
            (3.0, Report(2, 2, NOTHING, NOTHING)),
            (4.0, Report(2, 2, [0.0, 1.0, 0.0], NOTHING)), // the last checkpoint is part of the stop
            (5.0, Ends),
            (5.0, Stop),
        ],
        &[(Class::Start, 1.0), (Class::Productive, 1.0), (Class::Stop, 3.0)],
        0.0,
    );
}

#[test]
fn a_worker_that_never_takes_a_step_is_all_start_and_restart() {
    check(
        &[
            (1.0, Worker),
            (3.0, Scrape),
            (4.0, Dies),
            (5.0, Scrape),
            (6.0, Worker),
            (8.0, Scrape),
            (9.0, Stop),
        ],
        &[(Class::Start, 3.0 + 3.0), (Class::Restart, 1.0 + 2.0)],
        0.0,
    );
}

#[test]
fn clocks_that_differ_shift_time_and_lose_none() {
    check(
        &[
            (0.0, Worker),
            (1.0, Report(1, 1, NOTHING, NOTHING)),
            (1.5, Report(2, 2, [0.75, 0.0, 0.0], NOTHING)), // more than has passed here
            (2.5, Report(3, 3, [0.75, 0.0, 0.0], NOTHING)),
        ],
        &[(Class::Start, 1.0), (Class::Data, 0.75), (Class::Productive, 0.75)],
        0.0,
    );
}
