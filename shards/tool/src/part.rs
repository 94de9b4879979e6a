//! Part: one of n builds that share a source, each on its own machine; `merge` makes one set of them.
//!
//! A part is a contiguous stretch of the listing that starts and ends between token batches, so its samples, views and
//! tokens are those of the unparted build. Its shards get numbers of its own (part i starts at (i − 1) · 100,000), so a
//! merge lists them as they are. `part.txt` says which part it is, of which listing.

use crate::source::Source;
use anyhow::{Context, Result, ensure};
use std::fmt;
use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Shard numbers that each part has.
const SHARDS: u64 = 100_000;
/// The most parts.
const MOST_PARTS: u64 = 100_000;
/// File name of what a part says about itself.
pub const PART_FILE: &str = "part.txt";
const TITLE: &str = "beit-shards part 1";

/// What of the listing a build packs, and as which shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Positions in the whole listing; a whole build ends at `u64::MAX`.
    pub entries: Range<u64>,
    pub first_shard: u64,
    pub most_shards: u64,
    part: Option<Part>,
    /// What is packed comes behind the shards that a finished set has.
    grows: bool,
}

impl Stretch {
    pub fn whole() -> Self {
        Self { entries: 0..u64::MAX, first_shard: 0, most_shards: u64::MAX, part: None, grows: false }
    }

    /// What is packed behind the `entries` entries and `shards` shards of a set that grows.
    pub fn behind(entries: u64, shards: u64) -> Self {
        Self { entries: entries..u64::MAX, first_shard: shards, grows: true, ..Self::whole() }
    }

    /// Whether the set's manifest lists everything there is of the set.
    pub fn is_whole(&self) -> bool {
        self.part.is_none()
    }

    /// The first shard and entry that the manifest lists.
    pub fn listed_from(&self) -> (u64, u64) {
        match self.grows {
            true => (0, 0),
            false => (self.first_shard, self.entries.start),
        }
    }

    /// What to type after the build; nothing when more is packed as it arrives.
    pub fn next(&self, out: &Path) -> Option<String> {
        let out = out.display();
        match self.part {
            _ if self.grows => None,
            None => Some(format!("beit-shard verify {out}, or beit-daemon start --shards {out}")),
            Some(part) => {
                Some(format!("when all {} parts are built, beit-shard merge PART_DIR… --out DIR", part.of))
            }
        }
    }
}

/// Part `number` of `of`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub number: u64,
    pub of: u64,
}

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, of) = text.split_once('/').context("expected i/n, such as 2/8, or auto, or auto/n")?;
        let (number, of) = (number.trim().parse().context("i")?, of.trim().parse().context("n")?);
        ensure!((1..=MOST_PARTS).contains(&of), "there can be 1 to {MOST_PARTS} parts, not {of}");
        ensure!((1..=of).contains(&number), "parts are counted from 1 to {of}; there is no part {number}");
        Ok(Self { number, of })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Part {
    /// Reads `--part`: `2/8`, or `auto` (or `auto/8`) for what the scheduler says.
    ///
    /// Slurm job arrays: `SLURM_ARRAY_TASK_ID`, `_MIN`, `_STEP` and `_COUNT`. Kubernetes indexed jobs:
    /// `JOB_COMPLETION_INDEX`, and the number of completions from `auto/n` or `JOB_COMPLETIONS`.
    pub fn read(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let Some(rest) = text.strip_prefix("auto") else { return text.parse() };
        let said = match rest.strip_prefix('/') {
            Some(of) => Some(of.parse::<u64>().context("expected auto or auto/n")?),
            None => {
                ensure!(rest.is_empty(), "expected i/n, such as 2/8, or auto, or auto/n");
                None
            }
        };
        let number = |name: &str| -> Result<Option<u64>> {
            let text = variable(name).filter(|text| !text.is_empty());
            text.map(|text| text.trim().parse().with_context(|| format!("${name} is {text:?}, no number")))
                .transpose()
        };
        let (index, of) = match (number("SLURM_ARRAY_TASK_ID")?, number("JOB_COMPLETION_INDEX")?) {
            (Some(id), _) => {
                let least = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or_default();
                let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
                let index =
                    id.checked_sub(least).context("$SLURM_ARRAY_TASK_ID is below $SLURM_ARRAY_TASK_MIN")?;
                (index / step, said.or(number("SLURM_ARRAY_TASK_COUNT")?))
            }
            (None, Some(index)) => (index, said.or(number("JOB_COMPLETIONS")?)),
            (None, None) => anyhow::bail!(
                "--part auto finds neither a Slurm job array ($SLURM_ARRAY_TASK_ID) nor a Kubernetes indexed job \
                 ($JOB_COMPLETION_INDEX); say --part i/n"
            ),
        };
        let of = of.context(
            "the scheduler does not say how many parts there are; say --part auto/n (or set $JOB_COMPLETIONS to the job's \
             completions)",
        )?;
        format!("{}/{of}", index + 1).parse()
    }

    /// Where a part goes: beside the set that the parts will be merged into.
    pub fn beside(self, out: &Path) -> PathBuf {
        let mut name = out.as_os_str().to_owned();
        name.push(format!(".part-{}-of-{}", self.number, self.of));
        name.into()
    }
}

/// What `part.txt` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFile {
    pub part: Part,
    pub entries: Range<u64>,
    /// Entries of the whole listing.
    pub total: u64,
    /// BLAKE3 of the whole listing.
    pub listing: String,
}

impl PartFile {
    /// Lists the whole source and cuts out the part; `group` entries go through the tokenizer together.
    pub fn cut(source: &Source, part: Part, group: u64) -> Result<Self> {
        let mut listing = blake3::Hasher::new();
        let mut total = 0_u64;
        source.walk(&(0..0), &mut |entry| {
            crate::pack::list(&mut listing, &entry);
            total += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        ensure!(total > 0, "no images in the source: its class folders are empty, nothing was packed");
        let groups = u128::from(total.div_ceil(group));
        let bound =
            |part: u64, of: u64| ((groups * u128::from(part) / u128::from(of)) as u64 * group).min(total);
        let entries = bound(part.number - 1, part.of)..bound(part.number, part.of);
        Ok(Self { part, entries, total, listing: listing.finalize().to_hex().to_string() })
    }

    pub fn stretch(&self) -> Stretch {
        Stretch {
            entries: self.entries.clone(),
            first_shard: (self.part.number - 1) * SHARDS,
            most_shards: SHARDS,
            part: Some(self.part),
            grows: false,
        }
    }

    /// Says so in `dir`, or checks that it says so already.
    pub fn publish(&self, dir: &Path) -> Result<()> {
        let path = dir.join(PART_FILE);
        if path.exists() {
            let there = Self::read(dir)?;
            ensure!(
                there == *self,
                "{} holds part {} of a listing of {} entries, this is part {} of one of {}; build into a fresh --out",
                dir.display(),
                there.part,
                there.total,
                self.part,
                self.total
            );
            return Ok(());
        }
        let temporary = dir.join(format!(".{PART_FILE}.tmp"));
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(self.to_string().as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            std::fs::File::open(dir)?.sync_all()
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// Reads a part's description.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(PART_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{} is no part: reading {PART_FILE}; name directories that `beit-shard build --part` made",
                dir.display()
            )
        })?;
        let parsed = Self::parse(&text)
            .with_context(|| format!("{} is damaged; build that part again", path.display()))?;
        ensure!(parsed.to_string() == text, "{} is damaged; build that part again", path.display());
        Ok(parsed)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == TITLE).then_some(())?;
        let part = lines.next()?.strip_prefix("part ")?.parse().ok()?;
        let mut numbers =
            lines.next()?.strip_prefix("entries ")?.split(' ').map(|number| number.parse().ok());
        let (start, end, total): (u64, u64, u64) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let listing = lines.next()?.strip_prefix("listing ")?.to_owned();
        (start <= end && end <= total).then_some(Self { part, entries: start..end, total, listing })
    }
}

impl fmt::Display for PartFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, entries, total, listing } = self;
        writeln!(
            f,
            "{TITLE}\npart {part}\nentries {} {} {total}\nlisting {listing}",
            entries.start, entries.end
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, variables: &[(&str, &str)], expect: Result<(u64, u64), &str>) {
        let variable = |name: &str| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        match (Part::read(text, &variable), expect) {
            (Ok(part), Ok(expect)) => assert_eq!((part.number, part.of), expect),
            (Err(error), Err(words)) => assert!(format!("{error:#}").contains(words), "{error:#}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn parts_are_read_from_the_command_line_and_from_schedulers() {
        check("2/8", &[], Ok((2, 8)));
        check("0/8", &[], Err("from 1 to 8"));
        check("9/8", &[], Err("from 1 to 8"));
        check("3", &[], Err("2/8"));
        check("auto", &[], Err("$SLURM_ARRAY_TASK_ID"));
        let slurm = [
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_MIN", "3"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
        ];
        check("auto", &slurm, Ok((3, 4)));
        let kubernetes = [("JOB_COMPLETION_INDEX", "0")];
        check("auto", &kubernetes, Err("auto/n"));
        check("auto/5", &kubernetes, Ok((1, 5)));
        check("auto", &[("JOB_COMPLETION_INDEX", "4"), ("JOB_COMPLETIONS", "5")], Ok((5, 5)));
        check("auto", &[("JOB_COMPLETION_INDEX", "x")], Err("no number"));
    }
}
