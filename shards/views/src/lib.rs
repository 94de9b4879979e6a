//! Decode images, draw views and masks, render them as the reference does.
//!
//! In come encoded images (any bytes) and [`SeedKey`]s; out go pixels: RGB, 8 bits, rows of interleaved channels.
//! The pixels of a view equal, bit for bit, those that Pillow and torchvision give for the same crop, flip and
//! jitter, whether the view is rendered from the decoded image or from a shard's payload.
//!
//! Start at [`View::draw`], [`decode`], [`pack_payload`] and [`Renderer`]. No files, no tensors, no global state.

mod image;
pub mod inner;
mod jitter;
mod kernels;
mod markers;
mod mask;
mod payload;
mod random;
mod region;
mod render;
mod resize;
mod shrink;
mod turbo;
mod view;

pub use crate::image::{DecodeError, Limits, RgbImage, decode, encode_png};
pub use crate::mask::{MaskError, MaskSpec, PatchGrid, draw_mask};
pub use crate::payload::{Payload, PayloadKind, pack_payload};
pub use crate::random::{Draws, Purpose, SeedKey};
pub use crate::render::{Renderer, StageTimes, contrast_grey};
pub use crate::shrink::{encode_jpeg, shrink_to_short_side};
pub use crate::view::{Interpolation, Jitter, JitterStep, PixelRect, View, ViewSpec, ViewSpecError};
