//! Blame: which rank is gone, when all that a survivor knows is that a collective failed.

use std::sync::mpsc;
use std::time::Duration;

use beit_torch::Store;

use super::pulse::{Sign, WATCH, key, signs};
use super::{Address, Meeting, World};
use crate::error::TrainError;
use crate::stats::unix_ms;

/// How long the store may take to answer beside the watching itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many are named before they are only counted.
const NAMED: usize = 8;

/// What is needed to ask after the other ranks of a run of several processes.
#[derive(Clone)]
pub(crate) struct Inquest {
    address: Address,
    world: World,
    /// Who serves the store, as it was when all was well.
    keeper: Option<Sign>,
}

impl Inquest {
    /// Remembers who serves the store, for when nobody can be asked any more.
    pub(crate) fn prepare(address: &Address, world: &World, store: &Store) -> Inquest {
        let keeper = store.get(&key(0)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Inquest { address: address.clone(), world: world.clone(), keeper }
    }

    /// Says which ranks are gone, or hang; takes a few seconds, and never much more.
    ///
    /// In a thread of its own, for a store whose process was stopped answers nothing, not even no.
    pub(crate) fn who(&self) -> String {
        let (sender, verdict) = mpsc::channel();
        let asking = self.clone();
        let asked = std::thread::Builder::new().name("inquest".into()).spawn(move || {
            let _ = sender.send(asking.ask());
        });
        match asked.ok().and_then(|_| verdict.recv_timeout(WATCH + PATIENCE).ok()) {
            Some(Ok(verdict)) => verdict,
            Some(Err(error)) => {
                tracing::debug!(%error, "Nobody is left to ask who is gone.");
                self.no_store()
            }
            None => self.no_store(),
        }
    }

    fn ask(&self) -> Result<String, TrainError> {
        let store = self.address.connect(self.world.size, PATIENCE)?;
        let before = signs(&store, &self.world)?;
        std::thread::sleep(WATCH);
        let after = signs(&store, &self.world)?;
        Ok(verdict(&self.world, &before, &after, unix_ms()))
    }

    fn no_store(&self) -> String {
        let Address { host, port, .. } = &self.address;
        let who = match (&self.world.meeting, &self.keeper) {
            (Meeting::At { agent: true, .. }, _) => "torchrun's agent".to_owned(),
            (_, Some(keeper)) => name(&self.world, keeper),
            (_, None) => "rank 0".to_owned(),
        };
        let state =
            self.keeper.as_ref().filter(|_| !matches!(self.world.meeting, Meeting::At { agent: true, .. }));
        let state = state.and_then(state_here).map_or(String::new(), |state| format!(" and {state}"));
        format!("{who}, which keeps the meeting point of the ranks at {host}:{port}, does not answer{state}")
    }
}

/// What two looks at the signs of all processes tell, those of this process aside.
fn verdict(world: &World, before: &[Option<Sign>], after: &[Option<Sign>], now_ms: u64) -> String {
    let others = || {
        let signs = before.iter().zip(after).zip(world.processes());
        signs
            .filter(|(_, first)| *first != world.first)
            .map(|((before, after), first)| (first, before, after))
    };
    // One that says itself why it failed is the cause, and silence its echo.
    let mut guilty: Vec<String> = others()
        .filter_map(|(_, _, sign)| {
            let sign = sign.as_ref()?;
            let (rank, reason) = sign.failed.as_ref()?;
            Some(format!("rank {rank} ({}) failed: {reason}", place(sign)))
        })
        .collect();
    if guilty.is_empty() {
        guilty.extend(others().filter_map(|(first, before, sign)| match (before, sign) {
            (_, None) => Some(format!("{} never came", ranks(world, first))),
            (Some(before), Some(sign)) if !sign.left && sign.beat == before.beat => {
                let seconds = now_ms.saturating_sub(sign.unix_ms) as f64 / 1e3;
                let name = name(world, sign);
                let state = state_here(sign).map_or(String::new(), |state| format!(" and {state}"));
                Some(format!("{name} has not been heard of for {seconds:.1} s{state}; {}", last(sign)))
            }
            _ => None,
        }));
    }
    if guilty.is_empty() {
        // All processes live: is there one that does something else than wait for the others?
        guilty.extend(others().filter_map(|(_, _, sign)| {
            let sign = sign.as_ref().filter(|sign| !sign.left)?;
            let waits = |(stage, _): &(String, f64)| ["step", "agree", "done"].contains(&stage.as_str());
            if sign.stages.iter().all(waits) {
                return None;
            }
            Some(format!("{} lives but does not come; {}", name(world, sign), last(sign)))
        }));
    }
    if guilty.is_empty() {
        return "no process is missing, so look at the network between them".to_owned();
    }
    let more = guilty.len().saturating_sub(NAMED);
    guilty.truncate(NAMED);
    if more > 0 {
        guilty.push(format!("and {more} more processes"));
    }
    guilty.join("; ")
}

fn ranks(world: &World, first: u32) -> String {
    match world.local {
        1 => format!("rank {first}"),
        local => format!("ranks {first} to {}", first + local - 1),
    }
}

fn name(world: &World, sign: &Sign) -> String {
    format!("{} ({})", ranks(world, sign.first), place(sign))
}

fn place(sign: &Sign) -> String {
    format!("process {} on {}", sign.pid, sign.host)
}

fn last(sign: &Sign) -> String {
    let stages: Vec<_> = sign.stages.iter().map(|(stage, _)| stage.as_str()).collect();
    let stages = if stages.is_empty() { "start".to_owned() } else { stages.join(", ") };
    format!("last after step {} in stage {stages}", sign.step)
}

/// What this machine's kernel knows of a process that was here.
fn state_here(sign: &Sign) -> Option<&'static str> {
    if sign.host != super::this_host() {
        return None;
    }
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", sign.pid)) else {
        return Some("is dead");
    };
    match stat.rsplit(')').next()?.trim_start().chars().next()? {
        'Z' | 'X' => Some("is dead"),
        'T' | 't' => Some("is stopped"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(first: u32, local: u32, size: u32) -> World {
        World { size, first, local, first_device: 0, meeting: Meeting::Inside }
    }

    fn sign(first: u32, beat: u64, stage: &str) -> Option<Sign> {
        Some(Sign {
            first,
            host: "elsewhere".into(),
            pid: 70 + first,
            beat,
            unix_ms: 10_000,
            step: 37,
            stages: vec![(stage.into(), 1.5)],
            ..Sign::default()
        })
    }

    #[track_caller]
    fn check(before: &[Option<Sign>], after: &[Option<Sign>], expect: &str) {
        assert_eq!(verdict(&world(0, 1, before.len() as u32), before, after, 14_200), expect);
    }

    #[test]
    fn silence_is_named_with_place_and_stage() {
        check(
            &[sign(0, 5, "step"), sign(1, 9, "step"), sign(2, 9, "data")],
            &[sign(0, 5, "step"), sign(1, 19, "step"), sign(2, 9, "data")],
            "rank 2 (process 72 on elsewhere) has not been heard of for 4.2 s; last after step 37 in stage data",
        );
    }

    #[test]
    fn a_failure_of_its_own_is_the_cause_and_silence_the_echo() {
        let mut failed = sign(1, 9, "done");
        failed.as_mut().unwrap().failed = Some((1, "panicked: oh".into()));
        check(
            &[sign(0, 1, "step"), failed.clone(), sign(2, 3, "step")],
            &[sign(0, 1, "step"), failed, sign(2, 3, "step")],
            "rank 1 (process 71 on elsewhere) failed: panicked: oh",
        );
    }

    #[test]
    fn who_never_came_and_who_does_not_come_are_named() {
        check(&[sign(0, 1, "start"), None], &[sign(0, 1, "start"), None], "rank 1 never came");
        check(
            &[sign(0, 1, "step"), sign(1, 5, "checkpoint")],
            &[sign(0, 1, "step"), sign(1, 9, "checkpoint")],
            "rank 1 (process 71 on elsewhere) lives but does not come; last after step 37 in stage checkpoint",
        );
        check(
            &[sign(0, 1, "step"), sign(1, 5, "step")],
            &[sign(0, 1, "step"), sign(1, 9, "step")],
            "no process is missing, so look at the network between them",
        );
    }

    #[test]
    fn those_who_left_because_of_the_others_are_not_blamed() {
        let mut left = sign(1, 9, "done");
        left.as_mut().unwrap().left = true;
        check(
            &[sign(0, 1, "step"), left.clone(), sign(2, 3, "step")],
            &[sign(0, 1, "step"), left, sign(2, 3, "step")],
            "rank 2 (process 72 on elsewhere) has not been heard of for 4.2 s; last after step 37 in stage step",
        );
    }

    #[test]
    fn a_thousand_missing_ranks_fit_into_a_line() {
        let none = vec![None; 12];
        let words = verdict(&world(0, 8, 96), &none, &none, 0);
        assert!(words.starts_with("ranks 8 to 15 never came; "), "{words}");
        assert!(words.ends_with("and 3 more processes"), "{words}");
    }
}
