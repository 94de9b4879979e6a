//! Reading a model's sizes off its tensors.

use beit_torchfile::Tensor;

use super::weights::{Architecture, Named};
use crate::model::{Head, Layout, ModelConfig};

/// What tensors do not tell, as far as somebody does: flags, a `config.json`, or a note we left in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// Attention heads; the columns of a bias table tell them too.
    pub num_heads: Option<u32>,
    /// Side of the image in px; a bias table and position embeddings tell the patches of a side.
    pub input_size: Option<u32>,
    /// ε of every layer norm.
    pub layer_norm_eps: Option<f64>,
    /// Drop path rate, for training on.
    pub drop_path: Option<f64>,
    /// What layer scale started at.
    pub init_values: Option<f64>,
}

impl Known {
    /// Adds what `flags` know.
    ///
    /// # Errors
    /// Flags that say something else
    pub(super) fn and(self, flags: &Known) -> Result<Known, String> {
        Ok(Known {
            num_heads: both("--num-heads", self.num_heads, flags.num_heads)?,
            input_size: both("--input-size", self.input_size, flags.input_size)?,
            layer_norm_eps: both("--layer-norm-eps", self.layer_norm_eps, flags.layer_norm_eps)?,
            drop_path: self.drop_path.or(flags.drop_path),
            init_values: self.init_values.or(flags.init_values),
        })
    }
}

fn both<T: Copy + PartialEq + std::fmt::Display>(
    flag: &str,
    file: Option<T>,
    given: Option<T>,
) -> Result<Option<T>, String> {
    match (file, given) {
        (Some(file), Some(given)) if file != given => {
            Err(format!("{flag} {given} contradicts the file, which says {file}; leave the flag out"))
        }
        (file, given) => Ok(file.or(given)),
    }
}

/// Patches along a side that are read: 1024 px in patches of 16. A position index has the fourth power of it.
const MOST_PATCHES: usize = 64;
/// The reference's, in all its models.
const REFERENCE_EPS: f64 = 1e-6;

/// Reads an architecture off tensors in the reference's names. Gives sentences about what had to be assumed too.
///
/// # Errors
/// What contradicts itself or is not told, and the flag that tells it
pub(super) fn infer(
    tensors: &Named,
    known: &Known,
    is_reference: bool,
) -> Result<(Architecture, Vec<String>), String> {
    let mut notes = Vec::new();
    let find = |name: &str| tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor);
    let shape = |name: &str| find(name).map(Tensor::shape).ok_or_else(|| format!("{name} is missing"));
    let has = |name: &str| find(name).is_some();

    let head = head(&has)?;
    let vocab = match shape(&format!("{}.weight", head.names().1))? {
        [rows, _] => *rows,
        other => return Err(format!("{}.weight has shape {other:?}, not two sides", head.names().1)),
    };
    let width = match shape("cls_token")? {
        [1, 1, width] if *width > 0 => *width,
        other => return Err(format!("cls_token has shape {other:?}, not [1, 1, D]")),
    };
    let patch = match shape("patch_embed.proj.weight")? {
        [_, 3, rows, columns] if rows == columns && *rows > 0 => *rows,
        [_, channels, rows, columns] if rows == columns => {
            return Err(format!(
                "patch_embed.proj.weight takes {channels} channels; only RGB images are read here"
            ));
        }
        other => {
            return Err(format!(
                "patch_embed.proj.weight has shape {other:?}; only square patches are read here"
            ));
        }
    };
    let depth = depth(tensors)?;
    let middle = match shape("blocks.0.mlp.fc1.weight")? {
        [rows, _] => *rows,
        other => return Err(format!("blocks.0.mlp.fc1.weight has shape {other:?}, not two sides")),
    };

    const SHARED: &str = "rel_pos_bias.relative_position_bias_table";
    const OWN: &str = "blocks.0.attn.relative_position_bias_table";
    let mut side = None;
    let mut heads = None;
    for name in [SHARED, OWN].into_iter().filter(|name| has(name)) {
        let [rows, columns] = *shape(name)? else { return Err(format!("{name} is no matrix")) };
        let offsets = rows.checked_sub(3).and_then(root).filter(|offsets| offsets % 2 == 1);
        let patches =
            offsets.ok_or_else(|| format!("{name} has {rows} rows, which no square grid of patches has"))?;
        agree("patches per side", &mut side, patches.div_ceil(2), name)?;
        agree("heads", &mut heads, columns, name)?;
    }
    if has("pos_embed") {
        let patches = match shape("pos_embed")? {
            [1, positions, _] => positions.checked_sub(1).and_then(root).filter(|side| *side > 0),
            _ => None,
        };
        let patches = patches.ok_or("pos_embed is of no square grid of patches and a cls position")?;
        agree("patches per side", &mut side, patches, "pos_embed")?;
    }

    let num_heads = match (heads.map(number).transpose()?, known.num_heads) {
        (Some(found), Some(told)) if found != told => {
            return Err(format!(
                "the bias tables have {found} heads, but {told} was said (--num-heads, config.json)"
            ));
        }
        (Some(heads), _) | (None, Some(heads)) => heads,
        (None, None) => {
            return Err(
                "without a relative position bias nothing in it tells the number of attention heads; say \
                        --num-heads (base has 12, large 16)"
                    .to_owned(),
            );
        }
    };
    let px = number(patch)?;
    let image_px = match (side, known.input_size) {
        (Some(side), Some(told)) if told as usize / patch != side => {
            return Err(format!(
                "it has {side} × {side} patches of {patch} px, which an image of {told} px has not"
            ));
        }
        (_, Some(told)) => told,
        (Some(side), None) => number(side)?.checked_mul(px).ok_or("its image is too large")?,
        (None, None) => {
            return Err(
                "without position embeddings or bias nothing in it tells the size of the image; say \
                        --input-size (224, for instance)"
                    .to_owned(),
            );
        }
    };
    if image_px as usize / patch > MOST_PATCHES {
        return Err(format!("{image_px} px make more than {MOST_PATCHES} patches of {patch} px a side"));
    }
    let eps = match known.layer_norm_eps {
        Some(eps) => eps,
        None if is_reference => {
            notes.push(
                "layer norm eps 1e-6, as in the reference and timm (--layer-norm-eps says otherwise)"
                    .to_owned(),
            );
            REFERENCE_EPS
        }
        None => {
            return Err("nothing in it tells the eps of the layer norms: give the folder with its config.json, or say \
                        --layer-norm-eps (transformers takes 1e-12 unless told, the reference has 1e-6)"
                .to_owned());
        }
    };
    let init_values = match (has("blocks.0.gamma_1"), known.init_values) {
        (true, Some(start)) if start > 0.0 => start,
        (true, _) => 0.1,
        (false, _) => 0.0,
    };
    let model = ModelConfig {
        image_px,
        patch_px: px,
        width: number(width)?,
        depth: number(depth)?,
        heads: num_heads,
        mlp_ratio: ratio(number(width)?, number(middle)?),
        vocab: number(vocab)?,
        rel_pos_bias: has(SHARED),
        abs_pos_emb: has("pos_embed"),
        init_values,
        drop_path: known.drop_path.unwrap_or(0.0),
        eps,
    };
    let layout = Layout {
        head,
        block_rel_pos_bias: has(OWN),
        mask_token: head == Head::Tokens || has("mask_token"),
        encoder_norm: has("encoder_norm.weight"),
    };
    Ok((Architecture { model, layout }, notes))
}

fn head(has: &impl Fn(&str) -> bool) -> Result<Head, String> {
    match (has("lm_head.weight"), has("head.weight"), has("fc_norm.weight"), has("norm.weight")) {
        (true, false, ..) => Ok(Head::Tokens),
        (false, true, true, false) => Ok(Head::MeanPool),
        (false, true, false, true) => Ok(Head::Cls),
        (true, true, ..) => Err("it has both lm_head (pre-training) and head (classification)".to_owned()),
        (false, true, true, true) => {
            Err("it has both fc_norm (mean pooling) and norm (cls position)".to_owned())
        }
        (false, true, false, false) => {
            Err("it has a head, but neither fc_norm (mean pooling) nor norm (cls position) before it"
                .to_owned())
        }
        (false, false, ..) => {
            Err("it is no BEiT with a head: neither lm_head.weight (pre-training) nor head.weight \
                                   (classification) is in it"
                .to_owned())
        }
    }
}

fn depth(tensors: &Named) -> Result<usize, String> {
    let mut numbers: Vec<usize> = tensors
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("blocks.")?.split_once('.')?.0.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    match numbers.iter().enumerate().find(|(at, number)| at != *number) {
        Some((at, _)) => Err(format!("block {at} is missing")),
        None if numbers.is_empty() => Err("it has no blocks".to_owned()),
        None => Ok(numbers.len()),
    }
}

fn agree(what: &str, known: &mut Option<usize>, found: usize, name: &str) -> Result<(), String> {
    match known {
        Some(known) if *known != found => Err(format!("{name} has {found} {what}, another table {known}")),
        _ => {
            *known = Some(found);
            Ok(())
        }
    }
}

fn root(square: usize) -> Option<usize> {
    let root = square.isqrt();
    (root * root == square).then_some(root)
}

fn number(size: usize) -> Result<u32, String> {
    u32::try_from(size).map_err(|_| format!("a side of {size} is too large"))
}

/// A ratio whose product with `width`, rounded towards zero, is `middle`; also after a way through text.
fn ratio(width: u32, middle: u32) -> f64 {
    let width = f64::from(width.max(1));
    let ratio = f64::from(middle) / width;
    match (ratio * 1024.0).fract() == 0.0 {
        true => ratio,
        false => (f64::from(middle) + 0.25) / width,
    }
}
