//! The names of `transformers` for the reference's tensors, in both of its generations.

use beit_torchfile::Tensor;

use super::weights::{Named, compact};

/// Ours, the names in files, the names that `transformers` 5 has in memory. A dot at the end stands for what follows.
const OUTSIDE: &[(&str, &str, &str)] = &[
    ("cls_token", "beit.embeddings.cls_token", ""),
    ("mask_token", "beit.embeddings.mask_token", ""),
    ("pos_embed", "beit.embeddings.position_embeddings", ""),
    ("patch_embed.proj.", "beit.embeddings.patch_embeddings.projection.", ""),
    ("rel_pos_bias.", "beit.encoder.relative_position_bias.", "beit.shared_position_bias."),
    ("fc_norm.", "beit.pooler.layernorm.", ""),
    ("lm_head.", "lm_head.", ""),
    ("head.", "classifier.", ""),
];

/// The same within a block.
const INSIDE: &[(&str, &str, &str)] = &[
    ("gamma_1", "lambda_1", ""),
    ("gamma_2", "lambda_2", ""),
    ("norm1.", "layernorm_before.", ""),
    ("norm2.", "layernorm_after.", ""),
    ("attn.q_bias", "attention.attention.query.bias", "attention.q_proj.bias"),
    ("attn.v_bias", "attention.attention.value.bias", "attention.v_proj.bias"),
    (
        "attn.relative_position_",
        "attention.attention.relative_position_bias.relative_position_",
        "relative_position_bias.relative_position_",
    ),
    ("attn.proj.", "attention.output.dense.", "attention.o_proj."),
    ("mlp.fc1.", "intermediate.dense.", "mlp.fc1."),
    ("mlp.fc2.", "output.dense.", "mlp.fc2."),
];

/// The three parts of a block's `attn.qkv.weight`.
const QKV: [(&str, &str); 3] = [
    ("attention.attention.query.weight", "attention.q_proj.weight"),
    ("attention.attention.key.weight", "attention.k_proj.weight"),
    ("attention.attention.value.weight", "attention.v_proj.weight"),
];

/// Whether a file speaks the names of `transformers`.
pub(super) fn are_transformers(tensors: &Named) -> bool {
    tensors.iter().any(|(name, _)| name.starts_with("beit."))
}

/// Renames the tensors of a `transformers` model, and joins query, key and value.
///
/// A name that is none of theirs stays, to be named as unknown.
///
/// # Errors
/// Parts that do not go together, in words
pub(super) fn from_transformers(tensors: Named) -> Result<Named, String> {
    let guesses_tokens = tensors.iter().any(|(name, _)| name == "lm_head.weight");
    let mut ours = Named::new();
    let mut parts: Vec<(String, [Option<Tensor>; 3])> = Vec::new();
    for (name, tensor) in tensors {
        if let Some((number, rest)) = block_of(&name) {
            let qkv = QKV.iter().position(|(classic, modern)| rest == *classic || rest == *modern);
            if let Some(part) = qkv {
                let at = parts.iter().position(|(known, _)| known == number).unwrap_or_else(|| {
                    parts.push((number.to_owned(), [None, None, None]));
                    parts.len() - 1
                });
                if parts[at].1[part].replace(tensor).is_some() {
                    return Err(format!("{name} comes twice"));
                }
                continue;
            }
            if let Some(rest) = translated(INSIDE, rest) {
                ours.push((format!("blocks.{number}.{rest}"), tensor));
                continue;
            }
        }
        let outside = match (name.strip_prefix("beit.layernorm."), name.strip_prefix("layernorm.")) {
            (Some(rest), _) if guesses_tokens => Some(format!("encoder_norm.{rest}")),
            (Some(rest), _) | (_, Some(rest)) => Some(format!("norm.{rest}")),
            _ => translated(OUTSIDE, &name),
        };
        ours.push((outside.unwrap_or(name), tensor));
    }
    for (number, parts) in parts {
        let [Some(q), Some(k), Some(v)] = parts else {
            return Err(format!("block {number} lacks its query, key or value weight"));
        };
        ours.push((format!("blocks.{number}.attn.qkv.weight"), joined(&number, &[q, k, v])?));
    }
    Ok(ours)
}

/// The tensors of a `transformers` model in the names of its files. Position indices stay behind: it computes them.
///
/// # Errors
/// A weight that is no three parts
pub(super) fn to_transformers(tensors: &Named) -> Result<Named, String> {
    let guesses_tokens = tensors.iter().any(|(name, _)| name == "lm_head.weight");
    let mut theirs = Named::new();
    for (name, tensor) in tensors.iter().filter(|(name, _)| !name.ends_with("relative_position_index")) {
        let block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        if let Some((number, "attn.qkv.weight")) = block {
            for (part, (classic, _)) in QKV.iter().enumerate() {
                theirs.push((
                    format!("beit.encoder.layer.{number}.{classic}"),
                    third(tensor, part).ok_or_else(|| format!("{name} is no three parts"))?,
                ));
            }
            continue;
        }
        let renamed = match block {
            Some((number, rest)) => {
                back(INSIDE, rest).map(|rest| format!("beit.encoder.layer.{number}.{rest}"))
            }
            None => match (name.strip_prefix("encoder_norm."), name.strip_prefix("norm.")) {
                (Some(rest), _) => Some(format!("beit.layernorm.{rest}")),
                (_, Some(rest)) if guesses_tokens => Some(format!("layernorm.{rest}")),
                (_, Some(rest)) => Some(format!("beit.layernorm.{rest}")),
                _ => back(OUTSIDE, name),
            },
        };
        theirs.push((renamed.ok_or_else(|| format!("{name} has no name there"))?, tensor.clone()));
    }
    Ok(theirs)
}

/// A block's number, and what follows it.
fn block_of(name: &str) -> Option<(&str, &str)> {
    let rest = name.strip_prefix("beit.encoder.layer.").or_else(|| name.strip_prefix("beit.layers."))?;
    let (number, rest) = rest.split_once('.')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some((number, rest))
}

fn translated(table: &[(&str, &str, &str)], name: &str) -> Option<String> {
    table.iter().find_map(|(ours, classic, modern)| {
        let names = [*classic, *modern];
        let mut known = names.iter().filter(|known| !known.is_empty());
        known.find_map(|known| swapped(name, known, ours))
    })
}

fn back(table: &[(&str, &str, &str)], name: &str) -> Option<String> {
    table.iter().find_map(|(ours, classic, _)| swapped(name, ours, classic))
}

/// `name` with `from` at its beginning replaced; the whole of it, unless `from` leaves something open.
fn swapped(name: &str, from: &str, to: &str) -> Option<String> {
    match from.ends_with(['.', '_']) {
        true => name.strip_prefix(from).map(|rest| format!("{to}{rest}")),
        false => (name == from).then(|| to.to_owned()),
    }
}

fn joined(number: &str, parts: &[Tensor; 3]) -> Result<Tensor, String> {
    let [first, ..] = parts;
    if parts
        .iter()
        .any(|part| part.shape().len() != 2 || part.shape() != first.shape() || part.dtype() != first.dtype())
    {
        let found: Vec<String> =
            parts.iter().map(|part| format!("{} {:?}", part.dtype(), part.shape())).collect();
        return Err(format!(
            "query, key and value of block {number} do not go together: {}",
            found.join(", ")
        ));
    }
    let bytes = parts.iter().flat_map(|part| part.to_contiguous().into_owned()).collect();
    Tensor::from_bytes(first.dtype(), &[3 * first.shape()[0], first.shape()[1]], bytes)
        .map_err(|error| error.to_string())
}

/// Rows `part`/3 to (`part` + 1)/3.
fn third(tensor: &Tensor, part: usize) -> Option<Tensor> {
    let [rows, columns] = *tensor.shape() else { return None };
    let tensor = compact(tensor).ok()?;
    let bytes = tensor.byte_len() / 3;
    let storage = tensor.storage().slice(part * bytes..(part + 1) * bytes)?;
    Tensor::view(tensor.dtype(), &[rows / 3, columns], &[columns, 1], 0, storage).ok()
}
