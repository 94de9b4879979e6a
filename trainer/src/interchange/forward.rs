//! Running a checkpoint on given pixels, to compare implementations.

use std::collections::BTreeMap;
use std::path::Path;

use beit_torchfile::{Dtype, Safetensors, Tensor, read_safetensors, write_safetensors};
use tch::{Device, Kind};

use super::weights::Weights;
use super::{about, must_be_free, stored};
use crate::checkpoint::tensors::KINDS;
use crate::error::{TrainError, torch};
use crate::model::weights::{by_name, copy_into};
use crate::model::{Head, Hidden, Model};

/// Images at a time; it changes memory, not numbers.
const BATCH: usize = 8;

/// What came out.
#[derive(Debug)]
pub struct Answer {
    /// Of `logits`.
    pub shape: [usize; 2],
    /// Tensors of the input that were not needed.
    pub unused: Vec<String>,
}

/// Reads `pixels` `[B, 3, S, S]` f32, normalised, and for pre-training models `mask` `[B, N]` u8 from `input`; writes
/// `logits` to `out`: `[M, V]`, the hidden patches in row-major order, or `[B, V]`, a row for each image. On the CPU, f32.
///
/// # Errors
/// No sound checkpoint; an input that is missing, of another type or of another shape; `out` is there already
pub fn forward(checkpoint: &Path, input: &Path, out: &Path) -> Result<Answer, TrainError> {
    must_be_free(out)?;
    let given = read_safetensors(input)?;
    let weights = stored::open(checkpoint)?;
    let wrong = about(input);
    let layout = weights.architecture.layout;
    let (batch, pixels) = pixels(&given, weights.architecture.model.image_px as usize).map_err(&wrong)?;
    let patches = weights.architecture.model.patches() as usize;
    let mask = match layout.head {
        Head::Tokens => Some(mask(&given, batch, patches).map_err(&wrong)?),
        Head::MeanPool | Head::Cls => None,
    };
    let unused = given
        .tensors
        .iter()
        .map(|(name, _)| name.clone())
        .filter(|name| name != "pixels" && (name != "mask" || mask.is_none()))
        .collect();

    let model = load(weights)?;
    let image = pixels.len() / batch;
    let mut logits: Vec<u8> = Vec::new();
    let mut rows = 0;
    let width = model.config().vocab as usize;
    let side = i64::from(model.config().image_px);
    let _no_grad = tch::no_grad_guard();
    for first in (0..batch).step_by(BATCH) {
        let images = BATCH.min(batch - first);
        let shape = [images as i64, 3, side, side];
        let some = tch::Tensor::f_from_data_size(
            &pixels[first * image..(first + images) * image],
            &shape,
            Kind::Float,
        )
        .map_err(torch("taking over the pixels"))?;
        let answer = match &mask {
            Some(mask) => {
                let flags = &mask[first * patches..(first + images) * patches];
                let hidden =
                    Hidden::from_flags(flags, images, Device::Cpu).map_err(torch("hiding patches"))?;
                if hidden.count() == 0 {
                    continue;
                }
                model.forward_hidden(&some, &hidden, None)
            }
            None => model.classify(&some, None),
        }
        .map_err(torch("running the model"))?;
        rows += answer.size()[0] as usize;
        let numbers: Vec<f32> =
            answer.f_flatten(0, -1).and_then(|flat| flat.try_into()).map_err(torch("reading the logits"))?;
        logits.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    let tensor = Tensor::from_bytes(Dtype::F32, &[rows, width], logits)
        .map_err(|error| TrainError::Broken(format!("keeping the logits: {error}")))?;
    write_safetensors(out, [("logits", &tensor)], &BTreeMap::new())?;
    Ok(Answer { shape: [rows, width], unused })
}

/// A model with these weights, on the CPU in f32.
pub(super) fn load(weights: Weights) -> Result<Model, TrainError> {
    let wrong = about(&weights.path);
    let (config, layout) = (&weights.architecture.model, weights.architecture.layout);
    let model = Model::blank(config, layout, Device::Cpu)
        .map_err(|error| wrong(format!("making its model: {error}")))?;
    // One by one: the whole state dict twice would be gigabytes.
    for (name, tensor) in weights.parameters() {
        let given = (name.to_owned(), to_tch(tensor)?);
        copy_into(model.parameters(), &by_name([&given])).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(model)
}

fn to_tch(tensor: &Tensor) -> Result<tch::Tensor, TrainError> {
    let dtype = tensor.dtype();
    let kind = KINDS.iter().find(|(_, known)| *known == dtype).map(|(kind, _)| *kind);
    let kind = kind.ok_or_else(|| TrainError::Broken(format!("weights of type {dtype}")))?;
    let shape: Vec<i64> = tensor.shape().iter().map(|side| *side as i64).collect();
    tch::Tensor::f_from_data_size(&tensor.to_contiguous(), &shape, kind).map_err(torch("taking over weights"))
}

/// The number of images, and their bytes.
fn pixels(given: &Safetensors, side: usize) -> Result<(usize, Vec<u8>), String> {
    let pixels = need(given, "pixels", &format!("[B, 3, {side}, {side}] f32, normalised"))?;
    match *pixels.shape() {
        [batch, 3, rows, columns] if batch > 0 && rows == side && columns == side => {
            if pixels.dtype() != Dtype::F32 {
                return Err(format!("pixels holds {}, the model needs float32, normalised", pixels.dtype()));
            }
            Ok((batch, pixels.to_contiguous().into_owned()))
        }
        _ => Err(format!("pixels has shape {:?}, the model needs [B, 3, {side}, {side}]", pixels.shape())),
    }
}

/// One flag for each patch.
fn mask(given: &Safetensors, batch: usize, patches: usize) -> Result<Vec<u8>, String> {
    let mask = need(given, "mask", &format!("[{batch}, {patches}] u8, 1 = hidden"))?;
    if mask.shape() != [batch, patches] {
        return Err(format!("mask has shape {:?}, the model needs [{batch}, {patches}]", mask.shape()));
    }
    if !matches!(mask.dtype(), Dtype::U8 | Dtype::Bool) {
        return Err(format!("mask holds {}, it must hold uint8: 1 hides a patch, 0 does not", mask.dtype()));
    }
    let flags = mask.to_contiguous().into_owned();
    match flags.iter().find(|flag| **flag > 1) {
        Some(flag) => Err(format!("mask holds {flag}; only 0 and 1 mean something")),
        None => Ok(flags),
    }
}

fn need<'a>(given: &'a Safetensors, name: &str, what: &str) -> Result<&'a Tensor, String> {
    given.get(name).ok_or_else(|| {
        let found: Vec<&str> = given.tensors.iter().take(8).map(|(name, _)| name.as_str()).collect();
        let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
        format!("it has no {name}, which must be {what}; it holds {found}")
    })
}
