use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use beit_torchfile::{Dtype, Tensor, Value, read_safetensors, save_pth, write_safetensors};
use serde_json::{Value as Json, json};
use tch::Kind;

use super::weights::{Architecture, Named, Weights};
use super::{Format, Known, export, forward, import, inspect, names, stored};
use crate::golden::{Golden, beit_tiny, relative_error};
use crate::model::{Head, Layout, Model, ModelConfig};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/beit-tiny").join(name)
}

/// A folder for files, the outputs being `a`, `b` and so on.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        beit_torch::set_threads(1).unwrap();
        Desk(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn import(&self, source: &Path, name: &str) -> PathBuf {
        import(source, &self.at(name), &Known::default()).unwrap();
        self.at(name)
    }

    fn export(&self, checkpoint: &Path, format: Format, name: &str) -> PathBuf {
        export(checkpoint, format, &self.at(name)).unwrap();
        self.at(name)
    }

    /// Writes tensors as the reference does.
    fn pth(&self, name: &str, tensors: Named) -> PathBuf {
        save_pth(self.at(name), &Value::dict([("model", Value::state_dict(tensors))])).unwrap();
        self.at(name)
    }
}

fn tensors(file: &str) -> Named {
    beit_torchfile::state_dict(golden(file), &["model"]).unwrap()
}

fn model_bytes(checkpoint: &Path) -> Vec<u8> {
    fs::read(checkpoint.join("model.safetensors")).unwrap()
}

#[test]
fn a_classifiers_logits_loss_and_every_gradient_equal_the_references() {
    let desk = Desk::new();
    let expected = Golden::open("beit-tiny/finetune.expected.safetensors");
    let model = forward::load(stored::open(&desk.import(&golden("finetune.pth"), "a")).unwrap()).unwrap();
    let logits = model.classify(expected.get("input"), None).unwrap();
    let loss = logits.cross_entropy_for_logits(expected.get("target"));
    loss.backward();
    let worst = relative_error(&logits, expected.get("logits"));
    assert!(worst <= 1e-5, "logits: {worst:e}");
    let error = relative_error(&loss.view([1]), expected.get("loss"));
    assert!(error <= 1e-5, "loss: {error:e}");
    let gradients = expected.under("grad.");
    assert_eq!(gradients.len(), model.parameters().len());
    for (name, parameter) in model.parameters() {
        let error = relative_error(&parameter.grad(), expected.get(&format!("grad.{name}")));
        assert!(error <= 1e-5, "gradient of {name}: {error:e}");
    }
}

#[test]
fn a_classifiers_state_dict_has_the_references_names_in_its_order() {
    let desk = Desk::new();
    let model = forward::load(stored::open(&desk.import(&golden("hf_finetune"), "a")).unwrap()).unwrap();
    let reference: Vec<_> = tensors("finetune.legacy.pth")
        .into_iter()
        .map(|(name, tensor)| (name, tensor.shape().iter().map(|side| *side as i64).collect::<Vec<_>>()))
        .collect();
    let ours: Vec<_> = model.state_dict().into_iter().map(|(name, tensor)| (name, tensor.size())).collect();
    assert_eq!(ours, reference);
}

#[test]
fn forward_gives_the_references_logits() {
    let desk = Desk::new();
    for (kind, source) in [("pretrain", "hf_pretrain"), ("finetune", "finetune.legacy.pth")] {
        let checkpoint = desk.import(&golden(source), kind);
        let expected = read_safetensors(golden(&format!("{kind}.expected.safetensors"))).unwrap();
        let mut given = vec![("pixels", expected.get("input").unwrap().clone())];
        if let Some(mask) = expected.get("mask") {
            let flags = mask.to_i64_vec().unwrap().iter().map(|flag| *flag as u8).collect();
            given.push(("mask", Tensor::from_bytes(Dtype::U8, mask.shape(), flags).unwrap()));
        }
        let (input, out) = (desk.at(&format!("{kind}-in")), desk.at(&format!("{kind}-out")));
        write_safetensors(&input, given.iter().map(|(name, t)| (*name, t)), &BTreeMap::new()).unwrap();
        forward(&checkpoint, &input, &out).unwrap();
        let found = Golden::read(&out);
        let golden = Golden::open(&format!("beit-tiny/{kind}.expected.safetensors"));
        let error = relative_error(found.get("logits"), golden.get("logits"));
        assert!(error <= 1e-5, "{kind}: {error:e}");
    }
}

#[test]
fn the_same_weights_from_every_format_are_the_same_checkpoint() {
    let desk = Desk::new();
    for kind in ["pretrain", "finetune"] {
        let from = |source: String| model_bytes(&desk.import(&golden(&source), &format!("from-{source}")));
        let zip = from(format!("{kind}.pth"));
        assert_eq!(zip, from(format!("{kind}.legacy.pth")));
        assert_eq!(zip, from(format!("hf_{kind}")));
    }
}

#[track_caller]
fn check_round_trips(desk: &Desk, checkpoint: &Path, formats: &[Format]) {
    let tag = checkpoint.file_name().unwrap().to_str().unwrap();
    for format in formats {
        let out = desk.export(checkpoint, *format, &format!("{tag}-{format:?}"));
        let again = desk.import(&out, &format!("{tag}-{format:?}-again"));
        assert_eq!(model_bytes(checkpoint), model_bytes(&again), "{format:?}");
        assert_eq!(
            stored::open(checkpoint).unwrap().architecture.layout,
            stored::open(&again).unwrap().architecture.layout
        );
        let twice = desk.export(&again, *format, &format!("{tag}-{format:?}-twice"));
        let read = |path: &Path| match format {
            Format::Transformers => [
                fs::read(path.join("config.json")).unwrap(),
                fs::read(path.join("model.safetensors")).unwrap(),
            ]
            .concat(),
            _ => fs::read(path).unwrap(),
        };
        assert!(read(&out) == read(&twice), "{format:?}");
    }
}

#[test]
fn round_trips_give_every_byte_back() {
    let desk = Desk::new();
    let pretrain = desk.import(&golden("pretrain.pth"), "p");
    check_round_trips(&desk, &pretrain, &[Format::Unilm, Format::Transformers, Format::Safetensors]);
    let classify = desk.import(&golden("hf_finetune"), "c");
    check_round_trips(
        &desk,
        &classify,
        &[Format::Unilm, Format::Transformers, Format::Timm, Format::Safetensors],
    );
}

/// Weights of this architecture, every number another one.
fn made_up(model: ModelConfig, layout: Layout, dtype: Dtype) -> Weights {
    let given = Model::skeleton(&model, layout)
        .unwrap()
        .into_iter()
        .filter(|(_, like)| like.kind() == Kind::Float)
        .zip(0u32..)
        .map(|((name, like), seed)| {
            let shape: Vec<usize> = like.size().iter().map(|side| *side as usize).collect();
            let count = shape.iter().product::<usize>() * dtype.size();
            let bytes = (0..count).map(|at| (at as u32 * 37 + seed * 11) as u8 & 0x3f).collect();
            (name, Tensor::from_bytes(dtype, &shape, bytes).unwrap())
        })
        .collect();
    Weights::complete(Path::new("made-up"), Architecture { model, layout }, given).unwrap()
}

#[track_caller]
fn check_geometry(model: ModelConfig, layout: Layout, dtype: Dtype) {
    let desk = Desk::new();
    let weights = made_up(model, layout, dtype);
    // Through transformers first: it has all of them.
    let folder = desk.at("hf");
    fs::create_dir(&folder).unwrap();
    let theirs = names::to_transformers(&weights.tensors).unwrap();
    write_safetensors(
        folder.join("model.safetensors"),
        theirs.iter().map(|(n, t)| (n.as_str(), t)),
        &BTreeMap::new(),
    )
    .unwrap();
    let config = super::transformers::config_of(&weights.architecture, None);
    fs::write(folder.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let checkpoint = desk.import(&folder, "a");
    let read = stored::open(&checkpoint).unwrap();
    assert_eq!(read.architecture.layout, weights.architecture.layout);
    assert_eq!(read.architecture.model.mlp_width(), weights.architecture.model.mlp_width());
    let rounded = ModelConfig { mlp_ratio: 0.0, ..read.architecture.model.clone() };
    assert_eq!(rounded, ModelConfig { mlp_ratio: 0.0, ..weights.architecture.model.clone() });
    for ((name, was), (read_name, is)) in weights.tensors.iter().zip(&read.tensors) {
        assert_eq!(name, read_name);
        assert!(was == is, "{name}");
    }
    let mut formats = vec![Format::Transformers, Format::Safetensors];
    if !layout.encoder_norm && (layout.head == Head::Tokens || !layout.mask_token) {
        formats.push(Format::Unilm);
    }
    check_round_trips(&desk, &checkpoint, &formats);
}

fn odd() -> ModelConfig {
    ModelConfig {
        image_px: 100, // 12 patches and a margin
        patch_px: 8,
        width: 30,
        depth: 2,
        heads: 5,
        mlp_ratio: 50.25 / 30.0,
        vocab: 100,
        rel_pos_bias: false,
        abs_pos_emb: true,
        init_values: 0.0,
        drop_path: 0.1,
        eps: 1e-12,
    }
}

#[test]
fn odd_geometries_travel() {
    let classify =
        Layout { head: Head::Cls, block_rel_pos_bias: true, mask_token: true, encoder_norm: false };
    check_geometry(odd(), Layout::PRETRAIN, Dtype::F32);
    check_geometry(odd(), classify, Dtype::F32);
    check_geometry(ModelConfig { image_px: 96, rel_pos_bias: true, ..odd() }, classify, Dtype::F16);
    check_geometry(
        ModelConfig { abs_pos_emb: false, rel_pos_bias: false, init_values: 0.2, ..odd() },
        Layout { head: Head::MeanPool, block_rel_pos_bias: false, mask_token: false, encoder_norm: false },
        Dtype::BF16,
    );
    check_geometry(
        ModelConfig { depth: 1, heads: 1, rel_pos_bias: true, ..odd() },
        Layout { block_rel_pos_bias: true, encoder_norm: true, ..Layout::PRETRAIN },
        Dtype::F64,
    );
}

#[track_caller]
fn check_count(config: ModelConfig, image_px: u32, classes: u32, expect: i64) {
    let config = ModelConfig { image_px, vocab: classes, rel_pos_bias: false, ..config };
    let layout =
        Layout { head: Head::MeanPool, block_rel_pos_bias: true, mask_token: false, encoder_norm: false };
    let all = Model::skeleton(&config, layout).unwrap();
    let parameters = all.iter().filter(|(_, tensor)| tensor.kind() == Kind::Float);
    assert_eq!(parameters.map(|(_, tensor)| tensor.numel() as i64).sum::<i64>(), expect);
}

#[test]
fn classifiers_have_the_published_number_of_parameters() {
    check_count(ModelConfig::base(), 224, 1000, 86_530_984);
    check_count(ModelConfig::base(), 224, 21841, 102_557_713);
    check_count(ModelConfig::base(), 384, 1000, 86_744_104);
    check_count(ModelConfig::large(), 224, 1000, 304_430_568);
    check_count(ModelConfig::large(), 224, 21841, 325_792_593);
    check_count(ModelConfig::large(), 384, 1000, 304_998_888);
    check_count(ModelConfig::large(), 512, 1000, 305_674_728);
}

/// Imports a changed `finetune.pth` and gives the complaint.
#[track_caller]
fn refused(change: impl FnOnce(&mut Named)) -> String {
    let desk = Desk::new();
    let mut weights = tensors("finetune.pth");
    change(&mut weights);
    let source = desk.pth("a.pth", weights);
    let error = import(&source, &desk.at("out"), &Known::default()).unwrap_err().to_string();
    assert!(!desk.at("out").exists());
    assert_eq!(fs::read_dir(desk.0.path()).unwrap().count(), 1, "something was left behind");
    error
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut Named), expect: &str) {
    let error = refused(change);
    assert!(error.contains(expect), "{error}");
}

#[test]
fn weights_that_are_no_beit_are_refused_in_words() {
    let find = |weights: &Named, name: &str| weights.iter().position(|(known, _)| known == name).unwrap();
    check_refused(
        |w| w.retain(|(name, _)| name != "blocks.1.attn.q_bias"),
        "blocks.1.attn.q_bias is missing",
    );
    check_refused(|w| w.retain(|(name, _)| !name.starts_with("blocks.1.")), "block 1 is missing");
    check_refused(|w| w.retain(|(name, _)| !name.starts_with("head.")), "no BEiT with a head");
    check_refused(|w| w.push(("extra".into(), w[0].1.clone())), "extra is unknown");
    check_refused(
        |w| {
            let at = find(w, "blocks.2.gamma_1");
            w[at].1 = Tensor::from_i64(&[48], &[1; 48]).unwrap();
        },
        "blocks.2.gamma_1 holds int64",
    );
    check_refused(
        |w| {
            let at = find(w, "blocks.2.attn.relative_position_index");
            w[at].1 = Tensor::from_i64(&[17, 17], &[0; 289]).unwrap();
        },
        "is not the index of 4 × 4 patches",
    );
    check_refused(
        |w| {
            let at = find(w, "blocks.0.attn.relative_position_bias_table");
            w[at].1 = Tensor::from_f32(&[51, 3], &[0.0; 153]).unwrap();
        },
        "51 rows, which no square grid",
    );
}

#[test]
fn what_weights_do_not_tell_is_asked_for() {
    let desk = Desk::new();
    let classes =
        Layout { head: Head::MeanPool, block_rel_pos_bias: false, mask_token: false, encoder_norm: false };
    let weights = made_up(ModelConfig { abs_pos_emb: false, ..odd() }, classes, Dtype::F32);
    let source = desk.pth("a.pth", weights.tensors.clone());
    let ask = |known: &Known| import(&source, &desk.at("out"), known).unwrap_err().to_string();
    assert!(ask(&Known::default()).contains("--num-heads"));
    let heads = Known { num_heads: Some(5), ..Known::default() };
    assert!(ask(&heads).contains("--input-size"));
    let theirs = names::to_transformers(&weights.tensors).unwrap();
    let file = desk.at("b.safetensors");
    write_safetensors(&file, theirs.iter().map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
    let sizes = Known { input_size: Some(100), ..heads };
    assert!(import(&file, &desk.at("out"), &sizes).unwrap_err().to_string().contains("--layer-norm-eps"));
    let all = Known { layer_norm_eps: Some(1e-12), ..sizes };
    import(&file, &desk.at("out"), &all).unwrap();
    assert_eq!(stored::open(&desk.at("out")).unwrap().architecture.model.eps, 1e-12);
    let wrong = Known { num_heads: Some(4), ..Known::default() };
    let error = import(&golden("finetune.pth"), &desk.at("no"), &wrong).unwrap_err().to_string();
    assert!(error.contains("3 heads, but 4 was said"), "{error}");
}

#[track_caller]
fn check_config(change: impl FnOnce(&mut serde_json::Map<String, Json>), expect: &str) {
    let desk = Desk::new();
    let folder = desk.at("hf");
    fs::create_dir(&folder).unwrap();
    fs::copy(golden("hf_finetune/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let mut config = serde_json::from_slice(&fs::read(golden("hf_finetune/config.json")).unwrap()).unwrap();
    change(&mut config);
    fs::write(folder.join("config.json"), serde_json::to_vec(&config).unwrap()).unwrap();
    let error = import(&folder, &desk.at("out"), &Known::default()).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn a_config_that_does_not_fit_its_weights_is_refused() {
    let mut set = Vec::new();
    set.push(("hidden_size", json!(64), "hidden_size is 64, the weights have 48"));
    set.push(("num_attention_heads", json!(4), "3 heads, but 4 was said"));
    set.push(("image_size", json!(224), "4 × 4 patches of 16 px, which an image of 224 px has not"));
    set.push(("image_size", json!([64, 32]), "only squares"));
    set.push(("use_mean_pooling", json!(false), "use_mean_pooling is false, the weights say true"));
    set.push(("layer_scale_init_value", json!(0), "have layer scale"));
    set.push(("hidden_act", json!("relu"), "only gelu"));
    set.push(("model_type", json!("vit"), "not beit"));
    for (key, value, expect) in set {
        check_config(|config| drop(config.insert(key.to_owned(), value)), expect);
    }
}

#[test]
fn names_of_classes_and_other_settings_come_back() {
    let desk = Desk::new();
    let folder = desk.at("hf");
    fs::create_dir(&folder).unwrap();
    fs::copy(golden("hf_finetune/model.safetensors"), folder.join("model.safetensors")).unwrap();
    let text = fs::read_to_string(golden("hf_finetune/config.json")).unwrap().replace("LABEL_3", "ptarmigan");
    fs::write(folder.join("config.json"), &text).unwrap();
    let back = desk.export(&desk.import(&folder, "a"), Format::Transformers, "back");
    let was: serde_json::Map<String, Json> = serde_json::from_str(&text).unwrap();
    let is: serde_json::Map<String, Json> =
        serde_json::from_slice(&fs::read(back.join("config.json")).unwrap()).unwrap();
    for (key, value) in was {
        assert!(is[&key] == value, "{key}: {} was {value}", is[&key]);
    }
}

#[test]
fn nothing_is_overwritten_and_damage_is_named() {
    let desk = Desk::new();
    let checkpoint = desk.import(&golden("pretrain.pth"), "a");
    let taken =
        |error: crate::error::TrainError| assert!(error.to_string().contains("there already"), "{error}");
    taken(import(&golden("pretrain.pth"), &checkpoint, &Known::default()).unwrap_err());
    let out = desk.export(&checkpoint, Format::Unilm, "b.pth");
    taken(export(&checkpoint, Format::Unilm, &out).unwrap_err());
    let cut = fs::read(&out).unwrap();
    fs::write(desk.at("cut.pth"), &cut[..cut.len() / 2]).unwrap();
    assert!(import(&desk.at("cut.pth"), &desk.at("c"), &Known::default()).is_err());
    let error = export(&out, Format::Timm, &desk.at("d")).unwrap_err().to_string();
    assert!(error.contains("no checkpoint of ours") && error.contains("beit-train import"), "{error}");
    let mut bytes = model_bytes(&checkpoint);
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(checkpoint.join("model.safetensors"), bytes).unwrap();
    let error = export(&checkpoint, Format::Safetensors, &desk.at("e")).unwrap_err().to_string();
    assert!(error.contains("blake3 differs"), "{error}");
    assert!(inspect(&checkpoint, &Known::default()).is_err());
}

#[track_caller]
fn check_input(kind: &str, given: &[(&str, Tensor)], expect: &str) {
    let desk = Desk::new();
    let checkpoint = desk.import(&golden(kind), "a");
    let input = desk.at("in");
    write_safetensors(&input, given.iter().map(|(name, t)| (*name, t)), &BTreeMap::new()).unwrap();
    let error = forward(&checkpoint, &input, &desk.at("out")).unwrap_err().to_string();
    assert!(error.contains(expect), "{error}");
    assert!(!desk.at("out").exists());
}

#[test]
fn inputs_that_do_not_fit_are_refused_in_words() {
    let bytes = |dtype: Dtype, shape: &[usize], byte: u8| {
        Tensor::from_bytes(dtype, shape, vec![byte; shape.iter().product::<usize>() * dtype.size()]).unwrap()
    };
    let pixels = |shape: &[usize]| bytes(Dtype::F32, shape, 0);
    let image = ("pixels", pixels(&[1, 3, 64, 64]));
    check_input("pretrain.pth", &[], "no pixels");
    check_input("pretrain.pth", &[("pixels", pixels(&[1, 3, 32, 64]))], "needs [B, 3, 64, 64]");
    check_input("finetune.pth", &[("pixels", bytes(Dtype::F16, &[1, 3, 64, 64], 0))], "float16");
    check_input("pretrain.pth", std::slice::from_ref(&image), "no mask");
    check_input("pretrain.pth", &[image.clone(), ("mask", bytes(Dtype::U8, &[2, 16], 0))], "needs [1, 16]");
    check_input("pretrain.pth", &[image.clone(), ("mask", bytes(Dtype::F32, &[1, 16], 0))], "uint8");
    check_input("pretrain.pth", &[image, ("mask", bytes(Dtype::U8, &[1, 16], 2))], "mask holds 2");
}

#[test]
fn inspect_names_the_groups_and_what_a_file_is() {
    Desk::new();
    let report = inspect(&golden("pretrain.legacy.pth"), &Known::default()).unwrap();
    assert_eq!((report.kind, report.parameters), (Some("pretrain"), 125_356));
    assert_eq!(report.tensors.len(), 55);
    let config = beit_tiny();
    let model = Model::new(&config, 0, tch::Device::Cpu).unwrap();
    let optimizer = crate::optimizer::Optimizer::new(model.parameters(), Default::default()).unwrap();
    for (said, is) in report.groups.iter().zip(optimizer.groups()) {
        assert_eq!((said.name, &said.parameters), (is.name.as_str(), &is.parameters));
    }
    assert_eq!(report.groups.len(), 2);
    let other = inspect(&golden("pretrain.expected.safetensors"), &Known::default()).unwrap();
    assert!(other.kind.is_none() && other.problem.unwrap().contains("no BEiT with a head"));
}

/// What `tests/parity/models.py --gradients` left: weights and gradients of models of transformers.
#[test]
#[ignore = "needs BEIT_PARITY, a folder that tests/parity/models.py makes: make parity"]
fn full_size_gradients_equal_pytorchs() {
    let folder = PathBuf::from(std::env::var("BEIT_PARITY").expect("BEIT_PARITY"));
    let names = ["base-tokens", "base-classes", "large-tokens", "large-classes"];
    let made: Vec<_> = names.iter().filter(|name| folder.join(name).exists()).collect();
    assert!(!made.is_empty(), "{} has none of {names:?}", folder.display());
    for name in made {
        let place = folder.join(name);
        let expected = Golden::read(&place.join("expected.safetensors"));
        let model = forward::load(stored::open(&place.join("checkpoint")).unwrap()).unwrap();
        let logits = match model.layout().head {
            Head::Tokens => model
                .forward(expected.get("pixels"), &expected.get("mask").to_kind(Kind::Bool), None)
                .unwrap(),
            _ => model.classify(expected.get("pixels"), None).unwrap(),
        };
        let loss = logits.cross_entropy_for_logits(expected.get("labels"));
        loss.backward();
        assert!(relative_error(&logits, expected.get("logits")) <= 2e-5);
        let mut worst = (relative_error(&loss.view([1]), expected.get("loss")), String::from("loss"));
        assert_eq!(expected.under("grad.").len(), model.parameters().len());
        for (parameter, tensor) in model.parameters() {
            let error = relative_error(&tensor.grad(), expected.get(&format!("grad.{parameter}")));
            if error > worst.0 {
                worst = (error, parameter.clone());
            }
        }
        eprintln!("{name}: {} gradients, the worst {:.1e} ({})", model.parameters().len(), worst.0, worst.1);
        assert!(worst.0 <= 1e-4, "{name}: {worst:?}");
    }
}
