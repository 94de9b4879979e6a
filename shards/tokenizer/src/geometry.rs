//! The shape of a dVAE: how many groups, how wide, how many codes.

/// What the tensors of an encoder say about the network they belong to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Groups of residual blocks; between two of them the image is halved.
    pub groups: u32,
    /// Residual blocks in each group.
    pub blocks_per_group: u32,
    /// Channels after the input convolution (`n_hid`); DALL-E's is 256.
    pub hidden: u32,
    /// Number of codes.
    pub vocab: u32,
    /// Gain of every residual branch of the encoder; DALL-E's is 1/layers².
    pub post_gain: f64,
}

impl Geometry {
    /// The gain that DALL-E gives a network of `groups` × `blocks` residual blocks: 1/layers².
    pub fn usual_gain(groups: u32, blocks: u32) -> f64 {
        let layers = f64::from(groups) * f64::from(blocks);
        1.0 / (layers * layers)
    }

    /// Side of the square of pixels that one token covers.
    pub fn stride(&self) -> u32 {
        1 << (self.groups - 1)
    }

    /// Channels of group `group`, counted from 0: each is twice as wide as the one before.
    pub(crate) fn width(&self, group: u32) -> i64 {
        i64::from(self.hidden) << group
    }
}
