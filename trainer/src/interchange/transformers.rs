//! The `config.json` of `transformers`: reading what it says, and writing it.

use serde_json::{Map, Value, json};

use super::geometry::Known;
use super::weights::Architecture;
use crate::model::Head;

/// A `config.json` of a BEiT.
#[derive(Debug)]
pub(super) struct Config(Map<String, Value>);

impl Config {
    /// Reads one.
    ///
    /// # Errors
    /// No JSON object, another model, or arithmetic that is not here
    pub(super) fn parse(text: &[u8]) -> Result<Config, String> {
        let map: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("can't be understood: {error}"))?;
        let config = Config(map);
        match config.0.get("model_type").and_then(Value::as_str) {
            Some("beit") => {}
            found => return Err(format!("its model_type is {}, not beit", found.unwrap_or("not said"))),
        }
        match config.0.get("hidden_act").map_or(Some("gelu"), Value::as_str) {
            Some("gelu") => {}
            found => {
                return Err(format!(
                    "hidden_act {} is not read here, only gelu",
                    found.unwrap_or("(no text)")
                ));
            }
        }
        Ok(config)
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// What the weights do not tell. A key that is not there has the default of `BeitConfig`.
    ///
    /// # Errors
    /// A key that holds something else
    pub(super) fn known(&self) -> Result<Known, String> {
        Ok(Known {
            num_heads: Some(self.size("num_attention_heads", 12)?),
            input_size: Some(self.size("image_size", 224)?),
            layer_norm_eps: Some(self.number("layer_norm_eps", 1e-12)?),
            drop_path: Some(self.number("drop_path_rate", 0.1)?),
            init_values: Some(self.number("layer_scale_init_value", 0.1)?),
        })
    }

    /// Compares with what the weights told.
    ///
    /// # Errors
    /// Every key that says something else
    pub(super) fn check(&self, found: &Architecture) -> Result<(), String> {
        let (model, layout) = (&found.model, &found.layout);
        let mut differences = Vec::new();
        let mut sizes = vec![
            ("hidden_size", 768, model.width),
            ("num_hidden_layers", 12, model.depth),
            ("intermediate_size", 3072, model.mlp_width()),
            ("patch_size", 16, model.patch_px),
            ("num_channels", 3, 3),
        ];
        if layout.head == Head::Tokens {
            sizes.push(("vocab_size", 8192, model.vocab));
        }
        if self.0.contains_key("head_dim") {
            sizes.push(("head_dim", 0, model.width / model.heads.max(1)));
        }
        for (key, default, is) in sizes {
            let says = self.size(key, default)?;
            if says != is {
                differences.push(format!("{key} is {says}, the weights have {is}"));
            }
        }
        let mut flags = vec![
            ("use_absolute_position_embeddings", false, model.abs_pos_emb),
            ("use_relative_position_bias", false, layout.block_rel_pos_bias),
            ("use_shared_relative_position_bias", false, model.rel_pos_bias),
        ];
        match layout.head {
            Head::Tokens => flags.push(("use_mean_pooling", true, !layout.encoder_norm)),
            pool => flags.push(("use_mean_pooling", true, pool == Head::MeanPool)),
        }
        for (key, default, is) in flags {
            let says = match self.0.get(key) {
                None => default,
                Some(value) => {
                    value.as_bool().ok_or_else(|| format!("{key} is {value}, not true or false"))?
                }
            };
            if says != is {
                differences.push(format!("{key} is {says}, the weights say {is}"));
            }
        }
        let scale = self.number("layer_scale_init_value", 0.1)?;
        if (scale > 0.0) != model.layer_scale() {
            let has = if model.layer_scale() { "have" } else { "have no" };
            differences.push(format!("layer_scale_init_value is {scale}, the weights {has} layer scale"));
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(format!("its config.json does not fit its weights: {}", differences.join("; "))),
        }
    }

    /// A whole number, or a square of two equal ones.
    fn size(&self, key: &str, default: u32) -> Result<u32, String> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let single = match value.as_array().map(Vec::as_slice) {
            Some([one, other]) if one == other => one,
            Some(_) => return Err(format!("{key} is {value}; only squares are read here")),
            None => value,
        };
        let number = single.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("{key} is {value}, not a whole number"))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        match self.0.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| format!("{key} is {value}, not a number")),
        }
    }
}

/// The `config.json` of a model: the one it came with, if any, with all that the weights decide.
pub(super) fn config_of(
    architecture: &Architecture,
    came_with: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let (model, layout) = (&architecture.model, &architecture.layout);
    let mut config = came_with.cloned().unwrap_or_default();
    let class = match layout.head {
        Head::Tokens => "BeitForMaskedImageModeling",
        Head::MeanPool | Head::Cls => "BeitForImageClassification",
    };
    let mean = match layout.head {
        Head::Tokens => !layout.encoder_norm,
        pool => pool == Head::MeanPool,
    };
    for (key, value) in [
        ("architectures", json!([class])),
        ("model_type", json!("beit")),
        ("hidden_act", json!("gelu")),
        ("hidden_size", json!(model.width)),
        ("num_hidden_layers", json!(model.depth)),
        ("num_attention_heads", json!(model.heads)),
        ("intermediate_size", json!(model.mlp_width())),
        ("layer_norm_eps", json!(model.eps)),
        ("image_size", json!(model.image_px)),
        ("patch_size", json!(model.patch_px)),
        ("num_channels", json!(3)),
        ("use_mask_token", json!(layout.mask_token)),
        ("use_absolute_position_embeddings", json!(model.abs_pos_emb)),
        ("use_relative_position_bias", json!(layout.block_rel_pos_bias)),
        ("use_shared_relative_position_bias", json!(model.rel_pos_bias)),
        ("use_mean_pooling", json!(mean)),
        ("layer_scale_init_value", json!(model.init_values)),
        ("drop_path_rate", json!(model.drop_path)),
    ] {
        config.insert(key.to_owned(), value);
    }
    match layout.head {
        Head::Tokens => {
            config.insert("vocab_size".to_owned(), json!(model.vocab));
        }
        Head::MeanPool | Head::Cls => {
            let named = config.get("id2label").and_then(Value::as_object).map(Map::len);
            if named != Some(model.vocab as usize) {
                let label = |class: u32| format!("LABEL_{class}");
                let names: Map<_, _> =
                    (0..model.vocab).map(|class| (class.to_string(), json!(label(class)))).collect();
                let numbers: Map<_, _> = (0..model.vocab).map(|class| (label(class), json!(class))).collect();
                config.insert("id2label".to_owned(), Value::Object(names));
                config.insert("label2id".to_owned(), Value::Object(numbers));
            }
        }
    }
    config
}
