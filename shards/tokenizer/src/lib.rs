//! DALL-E's discrete VAE on libtorch: load, encode, decode, train.
//!
//! In come pixels (RGB bytes) and weights in any of their containers; out go visual tokens (`u16`), and pixels again
//! from tokens. What it computes is what OpenAI's `dall-e` package computes in fp32, for any width, vocabulary and
//! number of groups that a file turns out to have. No shards here, no HTTP.
//!
//! Start at [`Tokenizer::find`] and [`Tokenizer::encode`]; [`train`] makes new ones.

mod error;

mod card;
mod geometry;

mod network;
mod weights;

mod container;
mod digest;
mod find;
mod tokenizer;

pub mod train;
mod usage;

pub use card::Card;
pub use error::TokenizerError;
pub use geometry::Geometry;
pub use tokenizer::{Precision, Tokenizer};
pub use usage::{CodeUse, psnr};

/// Sets how many threads libtorch uses for one call, in the whole process.
pub fn set_threads(threads: usize) {
    tch::set_num_threads(threads.clamp(1, 1024) as i32);
}

#[cfg(test)]
mod tests;
