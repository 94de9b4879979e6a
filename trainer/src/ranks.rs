//! Who trains: the ranks of a run, how they meet, and how they agree.
//!
//! A rank is a thread here with its own replica, its own store client and its own process group; ranks of other
//! processes join through the same store. Everything ranks tell each other outside the gradients goes through here.

mod blame;
mod env;
mod nccl;
mod pulse;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use beit_torch::{Backend, Op, ProcessGroup, Store, Work};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::{TrainError, torch};

pub(crate) use self::blame::Inquest;
pub(crate) use self::nccl::plugin;
pub(crate) use self::pulse::Pulse;

/// The ranks of a run and the share of them that lives in this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Ranks in all.
    pub size: u32,
    /// The first of this process.
    pub first: u32,
    /// How many live in this process; every process of a run has as many.
    pub local: u32,
    /// The GPU of the first of this process, where it has one; the others have the next ones.
    #[serde(default)]
    pub first_device: u32,
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
        /// Whether torchrun's agent serves it.
        #[serde(default)]
        agent: bool,
        /// Keeps the keys of one attempt from the next one's.
        prefix: Option<String>,
    },
}

impl World {
    /// `ranks` ranks, all in this process.
    pub fn inside(ranks: u32) -> World {
        World { size: ranks, first: 0, local: ranks, first_device: 0, meeting: Meeting::Inside }
    }

    /// The ranks of this process.
    pub fn ranks(&self) -> std::ops::Range<u32> {
        self.first..self.first + self.local
    }

    /// The number of a local rank's GPU on this machine.
    pub fn device_of(&self, rank: u32) -> u32 {
        self.first_device + rank - self.first
    }

    /// The first ranks of all processes of the run.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> {
        (0..self.size).step_by(self.local.max(1) as usize)
    }

    /// Whether all ranks are in this process.
    pub fn alone(&self) -> bool {
        self.local == self.size
    }

    /// Whether rank 0 lives here, which writes checkpoints and logs.
    pub fn leads(&self) -> bool {
        self.first == 0
    }
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
        Meeting::At { host, port, serve: ours, prefix, .. } => {
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
    /// For what ranks agree on; and for gradients, if nothing faster is there.
    group: ProcessGroup,
    /// NCCL, for what lies on GPUs.
    fast: Option<ProcessGroup>,
}

/// A sum over ranks under way.
#[derive(Debug)]
pub(crate) struct Sum {
    values: Tensor,
    work: Work,
}

impl Sum {
    /// Waits for it.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub(crate) fn get(self) -> Result<Vec<f64>, TrainError> {
        self.work.wait().map_err(torch("agreeing"))?;
        Vec::<f64>::try_from(&self.values).map_err(torch("reading what was agreed"))
    }
}

impl Comm {
    /// Meets the other ranks; returns when all are there.
    ///
    /// # Errors
    /// They are not there within `timeout`.
    pub(crate) fn join(
        point: &Address,
        rank: u32,
        world: &World,
        nccl: Option<&str>,
        timeout: Duration,
    ) -> Result<Comm, TrainError> {
        let size = world.size;
        let store = point.connect(size, timeout)?;
        let group = ProcessGroup::join(&store, &point.gloo(), rank, size, timeout)
            .map_err(torch("meeting the other ranks"))?;
        let fast = match nccl {
            Some(plugin) => {
                let backend = Backend::Nccl { plugin: plugin.to_owned(), device: world.device_of(rank) };
                let store = store.prefixed("nccl").map_err(torch("meeting the other ranks"))?;
                let group = ProcessGroup::join(&store, &backend, rank, size, timeout)
                    .map_err(torch("meeting the other ranks over NCCL"))?;
                Some(group)
            }
            None => None,
        };
        Ok(Comm { rank, size, group, fast })
    }

    /// The group that averages gradients.
    pub(crate) fn gradients(&self) -> &ProcessGroup {
        self.fast.as_ref().unwrap_or(&self.group)
    }

    /// Sums `values` over all ranks.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub(crate) fn sum(&self, values: &[f64]) -> Result<Vec<f64>, TrainError> {
        self.begin_sum(values)?.get()
    }

    /// Begins to sum `values` over all ranks.
    ///
    /// # Errors
    /// A rank is gone.
    pub(crate) fn begin_sum(&self, values: &[f64]) -> Result<Sum, TrainError> {
        let values = Tensor::from_slice(values);
        let work = self.group.all_reduce(&values, Op::Sum).map_err(torch("agreeing"))?;
        Ok(Sum { values, work })
    }

    /// Gives every rank the tensors of rank 0, in place.
    ///
    /// # Errors
    /// A rank is gone or late.
    pub(crate) fn broadcast(&self, tensors: &[(String, Tensor)]) -> Result<(), TrainError> {
        for (_, tensor) in tensors {
            let group = if tensor.device() == tch::Device::Cpu { &self.group } else { self.gradients() };
            group
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

impl Address {
    /// Where this process listens for the others: the loopback if they meet there, the interface that
    /// `GLOO_SOCKET_IFNAME` names, or the address from which the meeting point is reached.
    fn gloo(&self) -> Backend {
        let threads = 2;
        if let Some(name) = std::env::var("GLOO_SOCKET_IFNAME").ok().filter(|name| !name.is_empty()) {
            let name = name.split(',').next().unwrap_or_default();
            return Backend::Gloo { host: format!("%{name}"), threads };
        }
        if ["127.0.0.1", "localhost", "::1"].contains(&self.host.as_str()) {
            return Backend::local();
        }
        // A machine's own name may lead to its loopback, where nobody else finds it.
        let host = match own_address(&self.host, self.port) {
            Some(address) if !address.is_loopback() => address.to_string(),
            _ => this_host(),
        };
        Backend::Gloo { host, threads }
    }
}

/// The address of this machine on the way to `host`; nothing is sent.
fn own_address(host: &str, port: u16) -> Option<IpAddr> {
    (host, port).to_socket_addrs().ok()?.find_map(|there| {
        let any: IpAddr =
            if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(there).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// The name of this machine.
pub(crate) fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_one_process_meet_sum_and_compare() {
        let world = World::inside(2);
        let timeout = Duration::from_secs(20);
        let (_server, point) = open(&world, timeout).unwrap();
        let (sums, same): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
            let ranks: Vec<_> = world
                .ranks()
                .map(|rank| {
                    let (point, world) = (&point, &world);
                    scope.spawn(move || {
                        let comm = Comm::join(point, rank, world, None, timeout).unwrap();
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
