//! Who trains: the ranks of a run, how they meet, and how they agree.
//!
//! A rank is a thread here with its own replica, its own store client and its own process group; ranks of other
//! processes join through the same store. Everything ranks tell each other outside the gradients goes through here.

use std::time::Duration;

use beit_torch::{Backend, Op, ProcessGroup, Store};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{TrainError, torch};

/// The ranks of a run and the share of them that lives in this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Ranks in all.
    pub size: u32,
    /// The first of this process.
    pub first: u32,
    /// How many live in this process.
    pub local: u32,
    /// Where they meet.
    pub meeting: Meeting,
}

/// The store through which ranks find each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Meeting {
    /// All ranks are in this process; a port of the loopback is picked when they start.
    Inside,
    /// As torchrun, Kubeflow and friends say.
    At {
        /// Name or address of the host of rank 0.
        host: String,
        /// Its port.
        port: u16,
        /// Whether this process serves it.
        serve: bool,
        /// Keeps the keys of one attempt from the next one's.
        prefix: Option<String>,
    },
}

impl World {
    /// `ranks` ranks, all in this process.
    pub fn inside(ranks: u32) -> World {
        World { size: ranks, first: 0, local: ranks, meeting: Meeting::Inside }
    }

    /// One rank per process, as the environment says; `None` when it says nothing.
    ///
    /// # Errors
    /// `RANK` without the rest, numbers that are none, a rank beyond the world.
    /// # Source
    /// torchrun: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_RESTART_COUNT
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Option<World>, TrainError> {
        let (rank, size) = match (get("RANK"), get("WORLD_SIZE")) {
            (Some(rank), Some(size)) => (number("RANK", &rank)?, number("WORLD_SIZE", &size)?),
            (None, None) => return Ok(None),
            (rank, _) => {
                let (there, missing) =
                    if rank.is_some() { ("RANK", "WORLD_SIZE") } else { ("WORLD_SIZE", "RANK") };
                return Err(TrainError::Plan(format!(
                    "{there} is set but {missing} is not; set both or neither"
                )));
            }
        };
        if rank >= size {
            return Err(TrainError::Plan(format!(
                "RANK is {rank}, but WORLD_SIZE is {size}: ranks count from 0"
            )));
        }
        let missing =
            |name| TrainError::Plan(format!("RANK is set but {name} is not; it says where ranks meet"));
        let host = get("MASTER_ADDR").ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = get("MASTER_PORT").ok_or_else(|| missing("MASTER_PORT"))?;
        let port =
            port.parse().map_err(|_| TrainError::Plan(format!("MASTER_PORT is {port}, which is no port")))?;
        let agent = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|agent| agent == "True");
        let attempt = get("TORCHELASTIC_RESTART_COUNT");
        let prefix = attempt.map(|attempt| format!("/worker/attempt_{attempt}"));
        let meeting = Meeting::At { host, port, serve: rank == 0 && !agent, prefix };
        Ok(Some(World { size, first: rank, local: 1, meeting }))
    }

    /// The ranks of this process.
    pub fn ranks(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.local
    }

    /// Whether rank 0 lives here, which writes checkpoints and logs.
    pub fn leads(&self) -> bool {
        self.first == 0
    }
}

fn number(name: &str, text: &str) -> Result<u32, TrainError> {
    text.parse().map_err(|_| TrainError::Plan(format!("{name} is {text}, which is no number of a rank")))
}

/// How a rank finds the meeting point.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    host: String,
    port: u16,
    prefix: Option<String>,
}

impl Address {
    /// A line to the store.
    ///
    /// # Errors
    /// It can't be reached within `timeout`.
    pub(crate) fn connect(&self, size: u32, timeout: Duration) -> Result<Store, TrainError> {
        let doing = "going to the meeting point of the ranks";
        let store = Store::connect(&self.host, self.port, size, timeout).map_err(torch(doing))?;
        match &self.prefix {
            Some(prefix) => store.prefixed(prefix).map_err(torch(doing)),
            None => Ok(store),
        }
    }
}

/// Opens the store of a run if it is for this process to open; it serves for as long as it is kept.
///
/// # Errors
/// The port can't be had.
pub(crate) fn open(world: &World, timeout: Duration) -> Result<(Option<Store>, Address), TrainError> {
    let serve = |host: &str, port| {
        Store::serve(host, port, world.size, timeout).map_err(torch("opening the meeting point of the ranks"))
    };
    match &world.meeting {
        Meeting::Inside => {
            let host = "127.0.0.1".to_owned();
            let server = serve(&host, 0)?;
            let port = server.port().map_err(torch("opening the meeting point of the ranks"))?;
            Ok((Some(server), Address { host, port, prefix: None }))
        }
        Meeting::At { host, port, serve: ours, prefix } => {
            let server = if *ours { Some(serve(host, *port)?) } else { None };
            Ok((server, Address { host: host.clone(), port: *port, prefix: prefix.clone() }))
        }
    }
}

/// One rank's line to the others.
pub(crate) struct Comm {
    /// Its number.
    pub rank: u32,
    /// Of how many.
    pub size: u32,
    /// For the reducer.
    pub group: ProcessGroup,
}

impl Comm {
    /// Meets the other ranks; returns when all are there.
    ///
    /// # Errors
    /// They are not there within `timeout`.
    pub(crate) fn join(point: &Address, rank: u32, size: u32, timeout: Duration) -> Result<Comm, TrainError> {
        let store = point.connect(size, timeout)?;
        // Gloo binds where the meeting point is reached: the loopback, or this machine's own name.
        let backend = match point.host.as_str() {
            "127.0.0.1" | "localhost" | "::1" => Backend::local(),
            _ => Backend::Gloo { host: this_host(), threads: 2 },
        };
        let group = ProcessGroup::join(&store, &backend, rank, size, timeout)
            .map_err(torch("meeting the other ranks"))?;
        Ok(Comm { rank, size, group })
    }

    /// Sums `values` over all ranks.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub(crate) fn sum(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        let sums = Tensor::from_slice(values);
        self.group.all_reduce(&sums, Op::Sum).and_then(|work| work.wait()).map_err(torch("agreeing"))?;
        Vec::<f64>::try_from(&sums).map_err(torch("reading what was agreed"))
    }

    /// Gives every rank the tensors of rank 0, in place.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub(crate) fn broadcast(&self, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
        for (_, tensor) in tensors {
            self.group
                .broadcast(&tensor.detach(), 0)
                .and_then(|work| work.wait())
                .map_err(torch("sharing the weights of rank 0"))?;
        }
        Ok(())
    }

    /// Checks that every rank has the same 32 bytes.
    ///
    /// # Errors
    /// [`TrainError::Broken`] when one has others, naming `what`; a rank is gone or late.
    pub(crate) fn same(&self, what: &str, digest: &blake3::Hash) -> Result<(), TrainError> {
        let mine: Vec<i64> = digest.as_bytes().iter().map(|byte| i64::from(*byte)).collect();
        let (low, high) = (Tensor::from_slice(&mine), Tensor::from_slice(&mine));
        for (tensor, op) in [(&low, Op::Min), (&high, Op::Max)] {
            self.group
                .all_reduce(tensor, op)
                .and_then(|work| work.wait())
                .map_err(torch("comparing notes"))?;
        }
        debug_assert_eq!(low.kind(), Kind::Int64);
        if low == high {
            Ok(())
        } else {
            Err(TrainError::Broken(format!("rank {}: ranks have different {what}", self.rank)))
        }
    }
}

fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn torchrun_is_understood() {
        let world = World::from_env(env(&[
            ("RANK", "1"),
            ("WORLD_SIZE", "4"),
            ("MASTER_ADDR", "host"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
        ]))
        .unwrap()
        .unwrap();
        assert_eq!((world.size, world.ranks(), world.leads()), (4, 1..2, false));
        let Meeting::At { serve, prefix, .. } = world.meeting else { panic!() };
        assert_eq!((serve, prefix.as_deref()), (false, Some("/worker/attempt_2")));
    }

    #[test]
    fn the_agents_store_is_not_served_twice() {
        let world = World::from_env(env(&[
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("MASTER_ADDR", "host"),
            ("MASTER_PORT", "1"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ]));
        assert!(matches!(world.unwrap().unwrap().meeting, Meeting::At { serve: false, .. }));
    }

    #[test]
    fn half_an_environment_is_refused() {
        let refused = |pairs| World::from_env(env(pairs)).unwrap_err().to_string();
        assert!(refused(&[("RANK", "0")]).contains("WORLD_SIZE is not"));
        assert!(refused(&[("RANK", "0"), ("WORLD_SIZE", "1")]).contains("MASTER_ADDR is not"));
        assert!(refused(&[("RANK", "2"), ("WORLD_SIZE", "2")]).contains("count from 0"));
        assert!(refused(&[("RANK", "two"), ("WORLD_SIZE", "2")]).contains("no number"));
        assert_eq!(World::from_env(env(&[])).unwrap(), None);
    }

    #[test]
    fn ranks_of_one_process_meet_sum_and_compare() {
        let world = World::inside(2);
        let timeout = Duration::from_secs(20);
        let (_server, point) = open(&world, timeout).unwrap();
        let (sums, same): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
            let ranks: Vec<_> = world
                .ranks()
                .map(|rank| {
                    let point = &point;
                    scope.spawn(move || {
                        let comm = Comm::join(point, rank, 2, timeout).unwrap();
                        let sums = comm.sum(&[f64::from(rank), 1.0]).unwrap();
                        comm.same("notes", &blake3::hash(b"one")).unwrap();
                        let mine = if rank == 0 { blake3::hash(b"one") } else { blake3::hash(b"two") };
                        (sums, comm.same("notes", &mine).is_ok())
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).unzip()
        });
        assert_eq!(sums, [[1.0, 2.0], [1.0, 2.0]]);
        assert_eq!(same, [false, false]);
    }
}
