//! What a tokenizer file says about itself.

use serde::{Deserialize, Serialize};

/// The card of a tokenizer file: its name, and how it was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// A human name; empty = made from the digest.
    #[serde(default)]
    pub name: String,
    /// What it is and what it is for, in a sentence or two.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// DALL-E's flag that its convolutions run in half precision on CUDA, where the file has it; recorded only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_float16: Option<bool>,
    /// The options it was trained with, in the words of the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<serde_json::Value>,
    /// What was measured at the end of training, on held-out images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<serde_json::Value>,
}
