//! Which samples a step saw, in one number that every number of ranks gives alike.

use beit_loader::Batch;

/// Bits of one sample's part: a sum over 65,536 samples is still a whole number in f64.
const BITS: u32 = 36;

/// A rank's part of the number of a step; the parts of all ranks add up to it.
///
/// Stands for each sample's place in the global batch, id, tokens and mask; tokens follow from the view.
pub(crate) fn part(batch: &Batch<'_>, first_position: u64) -> f64 {
    let samples = batch.ids().len().max(1);
    let tokens = batch.tokens().chunks(batch.tokens().len() / samples);
    let masks = batch.mask().chunks(batch.mask().len() / samples);
    let places = (first_position..).zip(batch.ids());
    let parts = places.zip(tokens.zip(masks)).map(|((place, id), (tokens, mask))| {
        let mut hash = blake3::Hasher::new();
        for number in [batch.step(), place, id.0] {
            hash.update(&number.to_le_bytes());
        }
        for token in tokens {
            hash.update(&token.to_le_bytes());
        }
        hash.update(mask);
        let [a, b, c, d, e, f, g, h, ..] = *hash.finalize().as_bytes();
        (u64::from_le_bytes([a, b, c, d, e, f, g, h]) >> (64 - BITS)) as f64
    });
    parts.sum()
}

/// The sum, as the log has it.
pub(crate) fn text(sum: f64) -> String {
    format!("{:013x}", sum as u64)
}
