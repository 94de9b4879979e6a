//! What can go wrong in the trainer: what happened, where, and what to do now.

use std::path::PathBuf;

/// Every error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A file or folder could not be used.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// A gerund: what we were doing.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
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
    #[error("recipe {recipe}: {source}")]
    RecipeSyntax {
        /// Its name or path.
        recipe: String,
        /// Where it goes wrong.
        source: Box<toml::de::Error>,
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
        "{} does not continue this run: {differences}; change that back, or give another run directory",
        checkpoint.display()
    )]
    OtherRun {
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
    /// The loss is not a number any more.
    #[error(
        "the loss is not finite at step {step} on {ranks} (mean {loss}); nothing was updated or saved since; \
         lower lr or clip_grad and start again: the run continues from its newest checkpoint"
    )]
    NotFinite {
        /// The step whose loss it is.
        step: u64,
        /// The ranks that saw it.
        ranks: String,
        /// The mean over ranks, for the record.
        loss: f64,
    },
    /// The loss is a number, but a gradient is not.
    #[error(
        "a gradient is not finite at step {step} (mean loss {loss}); nothing was updated or saved since; lower lr and \
         start again: the run continues from its newest checkpoint"
    )]
    NotFiniteGradients {
        /// The step whose gradient it is.
        step: u64,
        /// The mean loss over ranks.
        loss: f64,
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
    #[error("{doing}: {source}")]
    Torch {
        /// A gerund: what we were doing.
        doing: &'static str,
        /// What libtorch says.
        source: Box<dyn std::error::Error + Send + Sync>,
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
        let TrainError::Torch { source, .. } = self else { return false };
        let said = source.to_string();
        WORDS.iter().any(|word| said.contains(word))
    }
}

/// Wraps an error of libtorch or of the shim with what we were doing.
pub(crate) fn torch<E: std::error::Error + Send + Sync + 'static>(
    doing: &'static str,
) -> impl FnOnce(E) -> TrainError {
    move |source| TrainError::Torch { doing, source: Box::new(source) }
}

/// Wraps an I/O error with what we were doing, and to what.
pub(crate) fn io<'a>(
    doing: &'static str,
    path: &'a std::path::Path,
) -> impl FnOnce(std::io::Error) -> TrainError + 'a {
    move |source| TrainError::Io { doing, path: path.into(), source }
}
