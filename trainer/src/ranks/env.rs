//! Who is who, as launchers say it in the environment: torchrun, Slurm's `srun`, Kubeflow.
//!
//! Launchers count processes. A process has one rank, or as many as it is asked for (`--ranks`, `--gpus`); all of them
//! are asked alike, so there are processes × local ranks in all.

use super::{Meeting, World};
use crate::error::TrainError;

/// A process among those of a run.
struct Seat {
    process: u32,
    processes: u32,
    /// Its number on its machine.
    beside: u32,
    /// How many ranks the launcher wants in it, if it says so.
    ranks: Option<u32>,
    meeting: Meeting,
}

/// Ports that are derived from a Slurm job: below those that the kernel gives out by itself.
const SLURM_PORTS: (u64, u64) = (12_000, 20_000);

impl World {
    /// The ranks that the environment speaks of, `ranks` of them (1 if nobody says) in this process; all of them are here
    /// when it speaks of none.
    ///
    /// # Errors
    /// Half an environment, numbers that are none, a rank beyond the world; each names the variable.
    /// # Source
    /// torchrun: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT, TORCHELASTIC_USE_AGENT_STORE,
    /// TORCHELASTIC_RESTART_COUNT. Slurm: SLURM_STEP_NUM_TASKS or SLURM_NTASKS, SLURM_PROCID, SLURM_LOCALID,
    /// SLURM_STEP_NODELIST, SLURM_JOB_NODELIST, SLURM_JOB_ID. Kubeflow's PyTorchJob: RANK, WORLD_SIZE, MASTER_ADDR,
    /// MASTER_PORT, PET_NNODES, PET_NPROC_PER_NODE; its TrainJob: PET_* alone.
    pub fn from_env(get: impl Fn(&str) -> Option<String>, ranks: Option<u32>) -> Result<World, TrainError> {
        let env = Env { get };
        let seat = if ["RANK", "WORLD_SIZE", "LOCAL_RANK"].iter().any(|name| env.text(name).is_some()) {
            Some(env.launched()?)
        } else if env.text("PET_NNODES").is_some() || env.text("PET_NODE_RANK").is_some() {
            env.train_job()?
        } else {
            env.slurm()?
        };
        let Some(Seat { process, processes, beside, ranks: wanted, meeting }) = seat else {
            return Ok(World::inside(ranks.unwrap_or(1)));
        };
        if process >= processes {
            return refuse(format!("this is process {process} of {processes}, but they count from 0"));
        }
        let local = match (ranks, wanted) {
            (Some(asked), Some(wanted)) if asked != wanted => {
                return refuse(format!(
                    "PET_NPROC_PER_NODE wants {wanted} ranks in each process, but {asked} are asked for; make them the same"
                ));
            }
            (asked, wanted) => asked.or(wanted).unwrap_or(1),
        };
        let Some(size) = processes.checked_mul(local) else {
            return refuse(format!("{processes} processes of {local} ranks are too many"));
        };
        // A launcher that shows each process its own GPUs only numbers them from 0 in each.
        let visible = env.text("CUDA_VISIBLE_DEVICES").map(|list| list.split(',').count());
        let own = visible == Some(local as usize);
        let first_device = if own { 0 } else { beside.saturating_mul(local) };
        if processes == 1 && matches!(meeting, Meeting::Inside) {
            return Ok(World::inside(local));
        }
        Ok(World { size, first: process * local, local, first_device, meeting })
    }
}

struct Env<F> {
    get: F,
}

impl<F: Fn(&str) -> Option<String>> Env<F> {
    fn text(&self, name: &str) -> Option<String> {
        (self.get)(name).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &str) -> Result<Option<u32>, TrainError> {
        let read =
            |text: String| text.parse().map_err(|_| plan(format!("{name} is {text}, which is no number")));
        self.text(name).map(read).transpose()
    }

    /// The number `name`, which has to be there since `there` is.
    fn needed(&self, name: &str, there: &str) -> Result<u32, TrainError> {
        let missing = || plan(format!("{there} is set but {name} is not; set both or neither"));
        self.number(name)?.ok_or_else(missing)
    }

    /// Where `MASTER_ADDR` and `MASTER_PORT` say, or the same names with `PET_` before them.
    fn master(&self, there: &str) -> Result<(String, u16), TrainError> {
        let either = |name: &str| {
            let found = self.text(name).or_else(|| self.text(&format!("PET_{name}")));
            found.ok_or_else(|| plan(format!("{there} is set but {name} is not; it says where ranks meet")))
        };
        Ok((either("MASTER_ADDR")?, port("MASTER_PORT", &either("MASTER_PORT")?)?))
    }

    /// torchrun, PyTorchJob, and whoever else sets `RANK`.
    fn launched(&self) -> Result<Seat, TrainError> {
        let there = ["RANK", "WORLD_SIZE", "LOCAL_RANK"].into_iter().find(|name| self.text(name).is_some());
        let there = there.unwrap_or("RANK");
        let process = self.needed("RANK", there)?;
        let world = self.needed("WORLD_SIZE", there)?;
        let local = self.number("LOCAL_RANK")?;
        // PyTorchJob counts pods in RANK; newer ones count what torchrun would start in each pod in WORLD_SIZE.
        let each = if local.is_none() { self.each() } else { None };
        let processes = match (each, self.number("PET_NNODES")) {
            (Some(each), Ok(Some(pods))) if world != pods && Some(world) != pods.checked_mul(each) => {
                return refuse(format!(
                    "WORLD_SIZE is {world}, which is neither PET_NNODES ({pods}) nor PET_NNODES x PET_NPROC_PER_NODE ({each})"
                ));
            }
            (Some(_), Ok(Some(pods))) => pods,
            _ => world,
        };
        if process >= processes {
            return refuse(format!("RANK is {process}, but there are {processes}: ranks count from 0"));
        }
        let (host, port) = self.master(there)?;
        let agent = self.text("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|agent| agent == "True");
        let attempt = self.text("TORCHELASTIC_RESTART_COUNT");
        let prefix = attempt.map(|attempt| format!("/worker/attempt_{attempt}"));
        let meeting = Meeting::At { host, port, serve: process == 0 && !agent, agent, prefix };
        Ok(Seat { process, processes, beside: local.unwrap_or(0), ranks: each, meeting })
    }

    /// What `PET_NPROC_PER_NODE` says, if it is a number of at least 2; `auto` and the like leave it to us.
    fn each(&self) -> Option<u32> {
        self.text("PET_NPROC_PER_NODE").and_then(|text| text.parse().ok()).filter(|each| *each > 1)
    }

    /// Kubeflow's TrainJob leaves `RANK` to torchrun, which we do without.
    fn train_job(&self) -> Result<Option<Seat>, TrainError> {
        if let Some(nodes) = self.text("PET_NNODES").filter(|nodes| nodes.contains(':')) {
            return refuse(format!(
                "PET_NNODES is {nodes}: only torchrun can wait for as many nodes as come; start `torchrun --no-python beit-train run …`"
            ));
        }
        let processes = self.needed("PET_NNODES", "PET_NODE_RANK")?;
        let seat = |process, meeting| Seat { process, processes, beside: 0, ranks: self.each(), meeting };
        if processes == 1 {
            return Ok(Some(seat(0, Meeting::Inside)));
        }
        let process = self.needed("PET_NODE_RANK", "PET_NNODES")?;
        let (host, port) = self.master("PET_NNODES")?;
        Ok(Some(seat(process, Meeting::At { host, port, serve: process == 0, agent: false, prefix: None })))
    }

    /// A task of `srun`.
    fn slurm(&self) -> Result<Option<Seat>, TrainError> {
        let step = self.number("SLURM_STEP_NUM_TASKS")?;
        let tasks = match step {
            Some(tasks) => Some(tasks),
            None => self.number("SLURM_NTASKS")?,
        };
        let Some(process) = self.number("SLURM_PROCID")? else { return Ok(None) };
        let missing = || plan("SLURM_PROCID is set but SLURM_NTASKS is not; start with srun".to_owned());
        let processes = tasks.ok_or_else(missing)?;
        if processes <= 1 {
            return Ok(None);
        }
        if step.is_none() && self.text("SLURM_STEP_ID").is_none() {
            tracing::warn!(
                "SLURM_STEP_ID is not set: if this is the batch script itself, the other {} tasks will not come; begin with srun.",
                processes - 1
            );
        }
        let host = self
            .text("MASTER_ADDR")
            .or_else(|| {
                first_host(&self.text("SLURM_STEP_NODELIST").or_else(|| self.text("SLURM_JOB_NODELIST"))?)
            })
            .or_else(|| self.text("SLURM_LAUNCH_NODE_IPADDR"));
        let Some(host) = host else {
            return refuse(
                "SLURM_PROCID is set, but neither SLURM_JOB_NODELIST nor MASTER_ADDR says where ranks meet"
                    .to_owned(),
            );
        };
        let port = match self.text("MASTER_PORT") {
            Some(text) => port("MASTER_PORT", &text)?,
            None => {
                let job = self.text("SLURM_JOB_ID").and_then(|job| job.parse::<u64>().ok());
                let Some(job) = job else {
                    return refuse(
                        "SLURM_PROCID is set, but neither SLURM_JOB_ID nor MASTER_PORT, which say where ranks meet".to_owned(),
                    );
                };
                let step = self.text("SLURM_STEP_ID").and_then(|step| step.parse::<u64>().ok()).unwrap_or(0);
                let (first, count) = SLURM_PORTS;
                // Steps of a job may run side by side, as jobs do.
                (first + (job.wrapping_add(step.wrapping_mul(7919))) % count) as u16
            }
        };
        let beside = self.number("SLURM_LOCALID")?.unwrap_or(0);
        let meeting = Meeting::At { host, port, serve: process == 0, agent: false, prefix: None };
        Ok(Some(Seat { process, processes, beside, ranks: None, meeting }))
    }
}

/// The first of a list of hosts as Slurm writes it: `gpu[003-010,012],cpu1` begins with gpu003.
fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list.trim();
    while let Some(end) = rest.find(['[', ',']) {
        host.push_str(&rest[..end]);
        if rest[end..].starts_with(',') {
            return Some(host).filter(|host| !host.is_empty());
        }
        let inside = &rest[end + 1..];
        let close = inside.find(']')?;
        host.push_str(inside[..close].split(['-', ',']).next()?);
        rest = &inside[close + 1..];
    }
    host.push_str(rest);
    Some(host).filter(|host| !host.is_empty())
}

fn port(name: &str, text: &str) -> Result<u16, TrainError> {
    text.parse().map_err(|_| plan(format!("{name} is {text}, which is no port")))
}

fn plan(why: String) -> TrainError {
    TrainError::Plan(why)
}

fn refuse<T>(why: String) -> Result<T, TrainError> {
    Err(plan(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn env(pairs: Pairs) -> impl Fn(&str) -> Option<String> {
        |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[track_caller]
    fn world(pairs: Pairs, ranks: Option<u32>) -> World {
        World::from_env(env(pairs), ranks).unwrap()
    }

    #[track_caller]
    fn refused(pairs: Pairs, ranks: Option<u32>, words: &str) {
        let message = World::from_env(env(pairs), ranks).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }

    #[track_caller]
    fn meets(world: &World, at: &str, ours: bool) {
        let Meeting::At { host, port, serve, .. } = &world.meeting else { panic!("{world:?}") };
        assert_eq!((format!("{host}:{port}"), *serve), (at.to_owned(), ours));
    }

    const TORCHRUN: Pairs = &[
        ("RANK", "5"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("MASTER_ADDR", "host"),
        ("MASTER_PORT", "29500"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("SLURM_PROCID", "0"), // torchrun may itself be a task of Slurm
        ("SLURM_NTASKS", "2"),
    ];

    #[test]
    fn without_a_launcher_all_ranks_are_here() {
        assert_eq!(world(&[], None), World::inside(1));
        assert_eq!(world(&[("MASTER_ADDR", "host")], Some(3)), World::inside(3));
        assert_eq!(world(&[("RANK", ""), ("WORLD_SIZE", "")], None), World::inside(1));
    }

    #[test]
    fn torchrun_starts_a_process_per_rank() {
        let five = world(TORCHRUN, None);
        assert_eq!((five.size, five.ranks(), five.first_device, five.leads()), (8, 5..6, 1, false));
        meets(&five, "host:29500", false);
        assert!(matches!(five.meeting, Meeting::At { prefix: Some(p), .. } if p == "/worker/attempt_2"));
    }

    #[test]
    fn a_process_may_have_several_ranks() {
        let two = world(TORCHRUN, Some(2));
        assert_eq!((two.size, two.ranks(), two.first_device), (16, 10..12, 2));
    }

    #[test]
    fn rank_0_serves_the_meeting_point_unless_torchruns_agent_does() {
        const PLAIN: Pairs =
            &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "host"), ("MASTER_PORT", "1")];
        meets(&world(PLAIN, None), "host:1", true);
        const AGENT: Pairs = &[
            ("RANK", "0"),
            ("WORLD_SIZE", "1"),
            ("MASTER_ADDR", "host"),
            ("MASTER_PORT", "1"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ];
        meets(&world(AGENT, None), "host:1", false);
    }

    #[test]
    fn half_an_environment_is_refused() {
        refused(&[("RANK", "0")], None, "WORLD_SIZE is not");
        refused(&[("WORLD_SIZE", "2")], None, "RANK is not");
        refused(&[("LOCAL_RANK", "0")], None, "LOCAL_RANK is set but RANK is not");
        refused(&[("RANK", "0"), ("WORLD_SIZE", "1")], None, "MASTER_ADDR is not");
        refused(&[("RANK", "2"), ("WORLD_SIZE", "2")], None, "count from 0");
        refused(&[("RANK", "two"), ("WORLD_SIZE", "2")], None, "RANK is two, which is no number");
        refused(
            &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "x")],
            None,
            "no port",
        );
    }

    const SRUN: Pairs = &[
        ("SLURM_PROCID", "6"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_STEP_ID", "1"),
        ("SLURM_LOCALID", "2"),
        ("SLURM_JOB_ID", "123456"),
        ("SLURM_JOB_NODELIST", "gpu[003-004],login1"),
        ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1"), // of the machine that called srun, which may be no node of the job
    ];

    #[test]
    fn a_task_of_slurm_is_a_process() {
        let six = world(SRUN, None);
        assert_eq!((six.size, six.ranks(), six.first_device), (8, 6..7, 2));
        meets(&six, "gpu003:23375", false); // 12000 + (123456 + 7919) % 20000
        let node = world(SRUN, Some(4));
        assert_eq!((node.size, node.ranks(), node.first_device), (32, 24..28, 8));
    }

    #[test]
    fn slurm_may_show_a_task_its_own_gpus_only() {
        const OWN: Pairs = &[
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_JOB_ID", "7"),
            ("SLURM_JOB_NODELIST", "n1"),
            ("CUDA_VISIBLE_DEVICES", "3"),
            ("MASTER_ADDR", "here"),
            ("MASTER_PORT", "99"),
        ];
        let one = world(OWN, None);
        assert_eq!((one.size, one.first_device), (2, 0));
        meets(&one, "here:99", false);
    }

    #[test]
    fn half_of_slurm_is_refused_and_one_task_is_alone() {
        assert_eq!(world(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")], Some(2)), World::inside(2));
        assert_eq!(world(&[("SLURM_NTASKS", "4")], None), World::inside(1)); // a shell of salloc
        refused(&[("SLURM_PROCID", "0")], None, "SLURM_NTASKS is not");
        refused(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")], None, "SLURM_JOB_NODELIST");
        const NO_PORT: Pairs = &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2"), ("SLURM_JOB_NODELIST", "n1")];
        refused(NO_PORT, None, "MASTER_PORT");
        const BEYOND: Pairs = &[
            ("SLURM_PROCID", "2"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_JOB_NODELIST", "n1"),
            ("SLURM_JOB_ID", "1"),
        ];
        refused(BEYOND, None, "process 2 of 2");
    }

    #[test]
    fn slurms_lists_of_hosts_are_read() {
        let first = |list| first_host(list).unwrap();
        assert_eq!(first("n1"), "n1");
        assert_eq!(first("n1,n2"), "n1");
        assert_eq!(first("gpu[003-010,012],cpu1"), "gpu003");
        assert_eq!(first("rack[1-2]node[07,09]"), "rack1node07");
        assert_eq!(first("a-b[5].site"), "a-b5.site");
        assert_eq!((first_host(""), first_host("n[1"), first_host(",")), (None, None, None));
    }

    #[test]
    fn a_pod_of_a_pytorchjob_is_a_process() {
        const POD: Pairs =
            &[("RANK", "1"), ("WORLD_SIZE", "3"), ("MASTER_ADDR", "job-master-0"), ("MASTER_PORT", "23456")];
        let one = world(POD, None);
        assert_eq!((one.size, one.ranks(), one.first_device), (3, 1..2, 0));
        meets(&one, "job-master-0:23456", false);
        assert_eq!(world(POD, Some(8)).ranks(), 8..16);
    }

    /// Newer operators count in WORLD_SIZE what torchrun would start, and in RANK the pods.
    #[test]
    fn a_pytorchjob_with_several_processes_per_node_gets_threads_instead() {
        const POD: Pairs = &[
            ("RANK", "1"),
            ("WORLD_SIZE", "16"),
            ("MASTER_ADDR", "m"),
            ("MASTER_PORT", "1"),
            ("PET_NNODES", "2"),
            ("PET_NPROC_PER_NODE", "8"),
            ("PET_NODE_RANK", "1"),
        ];
        let pod = world(POD, None);
        assert_eq!((pod.size, pod.ranks()), (16, 8..16));
        assert_eq!(world(POD, Some(8)), pod);
        refused(POD, Some(4), "PET_NPROC_PER_NODE wants 8 ranks in each process, but 4");
    }

    #[test]
    fn a_trainjob_speaks_to_torchrun_and_is_understood_without() {
        const NODE: Pairs = &[
            ("PET_NNODES", "2"),
            ("PET_NPROC_PER_NODE", "auto"),
            ("PET_NODE_RANK", "0"),
            ("PET_MASTER_ADDR", "job-node-0-0.job"),
            ("PET_MASTER_PORT", "29400"),
        ];
        let node = world(NODE, Some(2));
        assert_eq!((node.size, node.ranks()), (4, 0..2));
        meets(&node, "job-node-0-0.job:29400", true);
        assert_eq!(world(&[("PET_NNODES", "1"), ("PET_NPROC_PER_NODE", "4")], None), World::inside(4));
        refused(&[("PET_NNODES", "2"), ("PET_NODE_RANK", "1")], None, "MASTER_ADDR is not");
        refused(&[("PET_NODE_RANK", "1")], None, "PET_NNODES is not");
        refused(&[("PET_NNODES", "1:4")], None, "torchrun");
    }
}
