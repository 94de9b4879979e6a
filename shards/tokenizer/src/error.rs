//! What can go wrong with a tokenizer, in words that say what to do.

use std::path::PathBuf;

/// Every failure of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file or folder could not be read or written.
    #[error("{verb} {}: {cause}", path.display())]
    Io {
        /// What was being done, as a gerund.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The container is damaged, or of a kind that is not read.
    #[error(transparent)]
    File(#[from] beit_torchfile::Error),
    /// The file is sound, but what it holds is not a DALL-E encoder.
    #[error(
        "{}: this is not a DALL-E tokenizer: {found}; \
         expected the tensors of a dVAE encoder (blocks.input.w, blocks.group_1.block_1.…, blocks.output.conv.w)",
        path.display()
    )]
    NotATokenizer {
        /// Which file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The tensors are named like a dVAE's, but do not fit together.
    #[error("{where_}: {name} {problem}")]
    Shape {
        /// Which file, or which half of the network.
        where_: String,
        /// Which tensor.
        name: String,
        /// What is wrong with it, with the numbers.
        problem: String,
    },
    /// More codes than a shard's 16-bit tokens can hold.
    #[error("{where_}: a vocabulary of {vocab} codes, but tokens are stored in 16 bits: at most 65536")]
    VocabTooLarge {
        /// Which file or option.
        where_: String,
        /// Its number of codes.
        vocab: i64,
    },
    /// A folder without an encoder in it.
    #[error("{}: no encoder.pkl in this folder; put OpenAI's encoder.pkl (and decoder.pkl) there", path.display())]
    NoEncoder {
        /// Which folder.
        path: PathBuf,
    },
    /// No tokenizer was named and none lies where one is looked for.
    #[error(
        "no tokenizer found; looked at {looked}. Three ways out: \
         (1) download DALL-E's: mkdir -p dall_e_tokenizer_weight && cd dall_e_tokenizer_weight && \
         curl -LO https://cdn.openai.com/dall-e/encoder.pkl -LO https://cdn.openai.com/dall-e/decoder.pkl ; \
         (2) train one on your images: beit-shard tokenizer train IMAGES/ --out my.safetensors, then --tokenizer my.safetensors ; \
         (3) for a trial only: --tokenizer embedded (small, made from ten photos)"
    )]
    NoneFound {
        /// The places that were looked at.
        looked: String,
    },
    /// The images are not a whole number of tokens wide.
    #[error(
        "{px} px images do not fit tokenizer {name}: one token covers {stride} × {stride} px, and {px} is not a multiple \
         of {stride}; {lower} or {upper} px would fit"
    )]
    Grid {
        /// The tokenizer's name.
        name: String,
        /// Side of the images.
        px: u32,
        /// Side of one token.
        stride: u32,
        /// The nearest smaller size that fits (at least one token).
        lower: u32,
        /// The nearest larger size that fits.
        upper: u32,
    },
    /// A buffer does not hold what the call says.
    #[error("{what}: expected {expected} values, got {found}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// How many values it should hold.
        expected: usize,
        /// How many it holds.
        found: usize,
    },
    /// A token beyond the vocabulary.
    #[error(
        "token {token} is beyond the vocabulary of {vocab} codes of tokenizer {name}: these tokens are another tokenizer's"
    )]
    Token {
        /// The tokenizer's name.
        name: String,
        /// The token.
        token: u16,
        /// The vocabulary.
        vocab: u32,
    },
    /// The encoder gave NaN or infinity.
    #[error("tokenizer {name} gave non-finite logits; its weights are damaged")]
    NotFinite {
        /// The tokenizer's name.
        name: String,
    },
    /// Decoding was asked of a tokenizer that came without a decoder.
    #[error(
        "tokenizer {name} has no decoder; put decoder.pkl beside encoder.pkl, or use a .safetensors file with both"
    )]
    NoDecoder {
        /// The tokenizer's name.
        name: String,
    },
    /// A training option out of range.
    #[error("{option}: {problem}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The source of training images failed.
    #[error("reading training images")]
    Images(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The loss became NaN or infinite.
    #[error("step {step}: the loss became {loss}; lower the learning rate (now {lr})")]
    Diverged {
        /// At which step.
        step: u64,
        /// The loss.
        loss: f64,
        /// The learning rate of that step.
        lr: f64,
    },
    /// libtorch refused.
    #[error("{verb}: {cause}")]
    Torch {
        /// What was being done, as a gerund.
        verb: &'static str,
        /// What libtorch said.
        cause: tch::TchError,
    },
}

/// Gives a libtorch failure its verb.
pub(crate) fn torch(verb: &'static str) -> impl Fn(tch::TchError) -> TokenizerError {
    move |cause| TokenizerError::Torch { verb, cause }
}
