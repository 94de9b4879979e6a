use super::*;
use std::time::{Duration, Instant};

fn shape(ranks: usize, slots: u64, batch: u64) -> Shape {
    Shape { ranks, slots, batch, first_step: 0 }
}

fn sample(ring: &Ring) -> Claim {
    match ring.claim() {
        Claimed::Sample(claim) => claim,
        other => panic!("no sample to claim: {other:?}"),
    }
}

#[test]
fn ranks_fill_up_evenly() {
    let ring = Ring::new(shape(3, 2, 4));
    let ranks: Vec<usize> = (0..24).map(|_| sample(&ring).rank).collect();
    assert_eq!(ranks, [0, 1, 2].repeat(8));
    assert!(matches!(ring.claim(), Claimed::Full));
}

#[test]
fn a_rank_that_consumes_is_served_though_another_sleeps() {
    let ring = Ring::new(shape(2, 1, 1));
    for step in 0..100 {
        while let Claimed::Sample(claim) = ring.claim() {
            ring.finish(claim);
        }
        assert!(ring.is_ready(1, step));
        ring.release(1, step);
    }
    assert!(ring.is_ready(0, 0) && !ring.is_ready(0, 1));
}

#[test]
fn a_slot_is_published_by_the_last_sample_whatever_the_order() {
    let ring = Ring::new(Shape { ranks: 1, slots: 2, batch: 3, first_step: 7 });
    let mut claims: Vec<Claim> = (0..6).map(|_| sample(&ring)).collect();
    assert_eq!(
        claims.iter().map(|claim| (claim.step, claim.sample)).collect::<Vec<_>>()[2..4],
        [(7, 2), (8, 0)]
    );
    let second = claims.split_off(3);
    assert_eq!(
        second.into_iter().rev().map(|claim| ring.finish(claim)).collect::<Vec<_>>(),
        [false, false, true]
    );
    assert!(ring.is_ready(0, 8) && !ring.is_ready(0, 7), "a later step may be ready first");
    assert_eq!(claims.into_iter().map(|claim| ring.finish(claim)).collect::<Vec<_>>(), [false, false, true]);
    assert!(ring.is_ready(0, 7));
}

#[test]
fn no_slot_is_handed_out_before_it_is_given_back() {
    let ring = Ring::new(shape(1, 1, 2));
    for _ in 0..2 {
        let claim = sample(&ring);
        ring.finish(claim);
    }
    assert!(matches!(ring.claim(), Claimed::Full));
    ring.release(0, 0);
    assert_eq!(sample(&ring).step, 1);
    assert!(!ring.is_ready(0, 0) || ring.slot_of(0) == 0, "step 0's batch stays readable until overwritten");
}

#[test]
fn batches_in_stock_survive_a_failure_but_not_a_stop() {
    let full = || {
        let ring = Ring::new(shape(1, 2, 1));
        let claim = sample(&ring);
        ring.finish(claim);
        ring
    };
    let ring = full();
    ring.fail();
    ring.stop();
    assert_eq!(ring.wait_for(0, 0), Ok(()));
    assert_eq!(ring.wait_for(0, 1), Err(Over::Failed));
    let ring = full();
    ring.stop();
    assert_eq!(ring.wait_for(0, 0), Err(Over::Stopped));
}

#[test]
fn sleepers_do_not_burn_time() {
    let ring = Ring::new(shape(1, 1, 1));
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let before = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            assert_eq!(ring.wait_for(0, 0), Err(Over::Stopped));
            let after = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::try_from(after).unwrap() - Duration::try_from(before).unwrap()
        });
        std::thread::sleep(Duration::from_millis(300));
        ring.stop();
        assert!(sleeper.join().unwrap() < Duration::from_millis(30));
    });
}

#[test]
fn a_quarter_million_samples_pass_between_many_threads() {
    let (ranks, slots, batch, steps) = (4, 2, 16u64, 4000u64);
    let ring = Ring::new(shape(ranks, slots, batch));
    let cells: Vec<_> = (0..ranks as u64 * slots * batch).map(|_| AtomicU64::new(0)).collect();
    let cell = |rank: usize, slot: usize, sample: usize| {
        &cells[(rank * slots as usize + slot) * batch as usize + sample]
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    match ring.claim() {
                        Claimed::Sample(claim) => {
                            let value = (claim.step + 1) * 1000 + claim.sample as u64;
                            cell(claim.rank, claim.slot, claim.sample).store(value, Ordering::Relaxed);
                            ring.finish(claim);
                        }
                        Claimed::Full => ring.wait_for_space(),
                        Claimed::Over => return,
                    }
                }
            });
        }
        for rank in 0..ranks {
            let (ring, cell) = (&ring, &cell);
            scope.spawn(move || {
                for step in 0..steps {
                    ring.wait_for(rank, step).unwrap();
                    for sample in 0..batch as usize {
                        let value = cell(rank, ring.slot_of(step), sample).load(Ordering::Relaxed);
                        assert_eq!(value, (step + 1) * 1000 + sample as u64);
                    }
                    ring.release(rank, step);
                }
                ring.close(rank);
            });
        }
    });
    eprintln!("{:?} for {} samples", start.elapsed(), ranks as u64 * steps * batch);
}
