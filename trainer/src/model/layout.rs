//! Which layers a model has around and inside its blocks.

use serde::{Deserialize, Serialize};

/// What the reference, `transformers` and `timm` vary beside the sizes in [`super::ModelConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// What the model answers.
    pub head: Head,
    /// A relative position bias in every block, each with its own table; it adds to a shared one.
    pub block_rel_pos_bias: bool,
    /// The vector put where a patch is hidden. A model that guesses tokens needs it; a classifier may carry it unused.
    pub mask_token: bool,
    /// A second layer norm before the head's, as `transformers` has it for `use_mean_pooling = false`; only before
    /// a head of tokens.
    pub encoder_norm: bool,
}

impl Layout {
    /// The reference's pre-training model.
    pub const PRETRAIN: Layout =
        Layout { head: Head::Tokens, block_rel_pos_bias: false, mask_token: true, encoder_norm: false };
}

/// What a model answers, and from what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// The visual token of every hidden patch: `norm`, `lm_head`.
    Tokens,
    /// The image's class, from the mean over patches: `fc_norm`, `head`.
    MeanPool,
    /// The image's class, from the cls position: `norm`, `head`.
    Cls,
}

impl Head {
    /// Names of its layer norm and of its matrix.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Head::Tokens => ("norm", "lm_head"),
            Head::MeanPool => ("fc_norm", "head"),
            Head::Cls => ("norm", "head"),
        }
    }
}
