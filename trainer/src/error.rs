//! What can go wrong in the trainer: what happened, where, and what to do now.

use std::path::PathBuf;

/// Every error of this room. Its words hold those of its cause, which is therefore no `source`: whoever prints a whole chain would print
/// it twice.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or folder could not be used.
    #[error("{doing} {}: {cause}", path.display())]
    Io {
        /// A gerund: what we were doing.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// Neither a recipe of ours nor a file.
    #[error("no recipe and no file is called {asked}{hint}; recipes here: {known}")]
    NoSuchRecipe {
        /// What was asked for.
        asked: String,
        /// The recipes inside the binary.
        known: String,
        /// The likely one, if any.
        hint: String,
    },
    /// A recipe that is no TOML.
    #[error("recipe {recipe}: {cause}")]
    RecipeSyntax {
        /// Its name or path.
        recipe: String,
        /// Where it goes wrong.
        cause: Box<toml::de::Error>,
    },
    /// Not of the form `key=value`.
    #[error("{setting} is no setting; write key=value, for example lr=1e-3")]
    BadSetting {
        /// What was written.
        setting: String,
    },
    /// A key nobody knows.
    #[error("unknown key {key}{hint}")]
    UnknownKey {
        /// As written.
        key: String,
        /// The likely one, if any.
        hint: String,
    },
    /// A key of the reference that has no place in a recipe here.
    #[error("{key} is no key here: {place}")]
    KeyElsewhere {
        /// As written.
        key: String,
        /// Where its meaning went.
        place: &'static str,
    },
    /// A value of another type than its key's.
    #[error("{key} = {value}: expected {expected}")]
    WrongType {
        /// Whose value it is.
        key: String,
        /// As written.
        value: String,
        /// What to write.
        expected: &'static str,
    },
    /// A value outside its key's range.
    #[error("{key} = {value}: must be {rule}")]
    OutOfRange {
        /// Whose value it is.
        key: String,
        /// As written.
        value: String,
        /// The range.
        rule: &'static str,
    },
    /// A recipe, a data set, ranks and a device that do not go together.
    #[error("{0}")]
    Plan(String),
    /// A checkpoint that belongs to another run.
    #[error(
        "{} does not continue this run: {differences}; change that back, give another run directory, or take its \
         weights over all the same with --resume-anyway",
        checkpoint.display()
    )]
    OtherRun {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs, thing by thing.
        differences: String,
    },
    /// A checkpoint whose weights fit no other model.
    #[error(
        "the weights of {} are another model's: {differences}; change that back, or give another run directory",
        checkpoint.display()
    )]
    OtherModel {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What differs, thing by thing.
        differences: String,
    },
    /// A file of a checkpoint is not what its manifest says.
    #[error("checkpoint {} is damaged: {reason}", checkpoint.display())]
    Damaged {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Weights that can't be taken in or given out.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A weight file that can't be read or written.
    #[error(transparent)]
    WeightFile(#[from] beit_torchfile::Error),
    /// Another trainer has the run directory.
    #[error("{} is in use by another trainer (process {owner}); stop it, or give another run directory", path.display())]
    Locked {
        /// The run directory.
        path: PathBuf,
        /// The process that holds it, as far as known.
        owner: String,
    },
    /// The device asked for is not here.
    #[error("{0}")]
    Device(String),
    /// Step after step, the loss or a gradient is not a number.
    #[error(
        "{what} is not finite at step {step} (mean loss {loss}), for the {}; none of these steps changed the weights; lower \
         lr or clip_grad, or look at the samples named in log.jsonl, and start again: the run continues from its newest \
         checkpoint",
        in_a_row(*times)
    )]
    NotFinite {
        /// `the loss on rank 0, rank 3` or `a gradient`.
        what: String,
        /// The newest of these steps, counted from 1.
        step: u64,
        /// How many there were without a good one between.
        times: u32,
        /// The mean over ranks, for the record.
        loss: f64,
    },
    /// A tensor found no room.
    #[error(
        "rank {rank} is out of memory: {reason}; {sizes}; lower batch_size and raise update_freq by as much, or set \
         checkpoint_activations = true or amp = \"bf16\""
    )]
    OutOfMemory {
        /// Which.
        rank: u32,
        /// Its own words.
        reason: String,
        /// What there is to hold.
        sizes: String,
    },
    /// A rank failed, and so the others were stopped.
    #[error("rank {rank}: {reason}")]
    Rank {
        /// Which.
        rank: u32,
        /// Its own words.
        reason: String,
    },
    /// A rank of another process is gone, or hangs, and so this process stopped.
    #[error("{blame}; rank {rank} noticed: {reason}")]
    Lost {
        /// Who, where and since when, as far as is known.
        blame: String,
        /// The rank here that noticed first.
        rank: u32,
        /// What it noticed.
        reason: String,
    },
    /// A worker of ours broke a promise; a bug.
    #[error("{0}")]
    Broken(String),
    /// The data set.
    #[error("reading the data set: {0}")]
    Data(Box<dyn std::error::Error + Send + Sync>),
    /// libtorch.
    #[error("{doing}: {cause}")]
    Torch {
        /// A gerund: what we were doing.
        doing: &'static str,
        /// What libtorch says.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TrainError {
    /// Whether this is how a rank notices that another is gone, and says nothing of its own.
    pub(crate) fn is_echo(&self) -> bool {
        // Gradients are averaged within libtorch's backward pass, so the words are all there is to go by.
        const WORDS: &[&str] = &[
            "gloo",
            "Gloo",
            "pair closure",
            "NCCL",
            "ncclComm",
            "onnection",
            "imed out",
            "Socket",
            "rendezvous store",
        ];
        let TrainError::Torch { cause, .. } = self else { return false };
        let said = cause.to_string();
        WORDS.iter().any(|word| said.contains(word))
    }
}

fn in_a_row(count: u32) -> String {
    match count {
        1 => "first time".to_owned(),
        count => format!("{count}th time in a row"),
    }
}

/// Wraps an error of libtorch or of the shim with what we were doing.
pub(crate) fn torch<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> TrainError {
    move |cause| TrainError::Torch { doing, cause: Box::new(cause) }
}

/// Wraps an I/O error with what we were doing, and to what.
pub(crate) fn io<'a>(
    doing: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(std::io::Error) -> TrainError + 'a {
    move |cause| TrainError::Io { doing, path: path.into(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Recipe;

    #[test]
    fn a_cause_is_printed_once_whoever_prints_it() {
        let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let cause = gone().to_string();
        let no_toml = Recipe::parse("mine.toml", "lr = = 1").unwrap_err();
        let checks = [
            (io("opening", std::path::Path::new("a.run"))(gone()), "opening a.run: "),
            (torch("adding")(gone()), "adding: "),
            (no_toml, "recipe mine.toml: "),
        ];
        for (error, words) in checks {
            let alone = error.to_string();
            let chain = format!("{:#}", anyhow::Error::new(error).context("training"));
            assert_eq!(chain, format!("training: {alone}"));
            assert!(alone.starts_with(words), "{alone}");
            assert!(alone.starts_with("recipe") || alone.ends_with(&cause), "{alone}");
        }
    }
}
