use tch::{Device, Kind, Tensor};

use super::{Hidden, Model, ModelConfig, ModelError};
use crate::golden::{Golden, abs_pos, beit_tiny, read, relative_error};
use crate::loss;

/// Loads the weights, runs forward and backward, and compares everything.
#[track_caller]
fn check_parity(config: &ModelConfig, weights: &[(String, Tensor)], expected: &Golden) {
    let model = Model::new(config, 0, Device::Cpu).unwrap();
    model.load(weights).unwrap();
    let mask = expected.get("mask").to_kind(Kind::Bool);
    let logits = model.forward(expected.get("input"), &mask, None).unwrap();
    let score = loss::score(&logits, expected.get("labels")).unwrap();
    score.loss.f_backward().unwrap();

    let mut worst = relative_error(&logits, expected.get("logits"));
    assert!(worst <= 1e-5, "logits: {worst:e}");
    let error = relative_error(&score.loss.view([1]), expected.get("loss"));
    assert!(error <= 1e-5, "loss: {error:e}");
    let gradients = expected.under("grad.");
    assert_eq!(gradients.len(), model.parameters().len());
    for (name, parameter) in model.parameters() {
        let expect = expected.get(&format!("grad.{name}"));
        let error = relative_error(&parameter.grad(), expect);
        assert!(error <= 1e-5, "gradient of {name}: {error:e}");
        worst = worst.max(error);
    }
    assert!(worst > 0.0, "a comparison with itself proves nothing");
    let right = logits.argmax(-1, false).eq_tensor(expected.get("labels")).mean(Kind::Float);
    assert_eq!(read(&score.mlm_acc), read(&right));
}

#[test]
fn logits_loss_and_every_gradient_equal_the_references() {
    let weights = Golden::open_pth("beit-tiny/pretrain.pth");
    check_parity(&beit_tiny(), weights.all(), &Golden::open("beit-tiny/pretrain.expected.safetensors"));
}

#[test]
fn logits_loss_and_every_gradient_of_absolute_positions_without_layer_scale_equal_pytorchs() {
    let golden = Golden::open("beit-variants/abs-pos.safetensors");
    check_parity(&abs_pos(), &golden.under("w."), &golden);
}

#[test]
fn state_dict_has_the_references_names_in_its_order() {
    let reference = Golden::open_pth("beit-tiny/pretrain.legacy.pth");
    let model = Model::new(&beit_tiny(), 0, Device::Cpu).unwrap();
    let shapes = |tensors: &[(String, Tensor)]| {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.size(), tensor.kind())).collect::<Vec<_>>()
    };
    assert_eq!(shapes(&model.state_dict()), shapes(reference.all()));
    let parameters: Vec<&String> = model.parameters().iter().map(|(name, _)| name).collect();
    assert!(!parameters.contains(&&"rel_pos_bias.relative_position_index".to_owned()));
    assert_eq!(parameters.len() + 1, reference.all().len());
}

#[track_caller]
fn check_count(config: &ModelConfig, expect: i64) {
    let outline = Model::outline(config).unwrap();
    let count: i64 = outline.iter().map(|(_, shape)| shape.iter().product::<i64>()).sum();
    assert_eq!(count, expect);
}

#[test]
fn base_and_large_have_the_published_number_of_parameters() {
    check_count(&ModelConfig::named("beit_base_patch16_224_8k_vocab").unwrap(), 91_965_776);
    check_count(&ModelConfig::named("beit_large_patch16_224_8k_vocab").unwrap(), 311_534_016);
}

#[test]
fn base_and_large_with_absolute_positions_have_the_published_number_of_parameters() {
    let variant = |config| ModelConfig { rel_pos_bias: false, abs_pos_emb: true, init_values: 0.0, ..config };
    check_count(&variant(ModelConfig::base()), 92_089_856);
    check_count(&variant(ModelConfig::large()), 311_674_880);
}

#[test]
fn the_outline_is_what_the_model_has() {
    let model = Model::new(&beit_tiny(), 0, Device::Cpu).unwrap();
    let made: Vec<_> =
        model.parameters().iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
    assert_eq!(Model::outline(&beit_tiny()).unwrap(), made);
    let count: i64 = made.iter().map(|(_, shape)| shape.iter().product::<i64>()).sum();
    assert_eq!(model.parameter_count(), count as u64);
}

#[test]
fn attention_with_a_bias_equals_the_softmax_written_out() {
    tch::manual_seed(5);
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
    let (q, k, v) = (random(&[2, 3, 9, 4]), random(&[2, 3, 9, 4]), random(&[2, 3, 9, 4]));
    let bias = random(&[1, 3, 9, 9]).set_requires_grad(true);
    let fused = Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&bias), 0.0, false, None::<f64>, false);
    let written = ((&q * 0.5).matmul(&k.transpose(-2, -1)) + &bias).softmax(-1, Kind::Double).matmul(&v);
    assert!(relative_error(&fused, &written.detach()) < 1e-12);
    let gradient =
        |out: &Tensor| Tensor::run_backward(&[out.square().sum(Kind::Double)], &[&bias], true, false);
    assert!(relative_error(&gradient(&fused)[0], &gradient(&written)[0]) < 1e-12);
}

#[test]
fn a_mask_from_the_hosts_flags_is_the_mask_of_a_tensor() {
    let flags = [0, 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0];
    let hidden = Hidden::from_flags(&flags, 3, Device::Cpu).unwrap();
    let mask = Tensor::from_slice(&flags.map(|flag| flag != 0)).view([3, 4]);
    let other = Hidden::from_mask(&mask).unwrap();
    assert_eq!(hidden.count(), 4);
    assert_eq!(read(hidden.rows()), [1.0, 3.0, 4.0, 7.0]);
    assert_eq!(read(hidden.rows()), read(other.rows()));
    assert_eq!(hidden.cells(), other.cells());
    assert!(Hidden::from_flags(&flags, 5, Device::Cpu).is_err());
}

#[test]
fn what_lies_under_a_hidden_patch_does_not_matter() {
    let model = Model::new(&beit_tiny(), 3, Device::Cpu).unwrap();
    let mut flags = [0u8; 16];
    flags[5] = 1; // row 1, column 1: pixels 16..32 each way
    let hidden = Hidden::from_flags(&flags, 1, Device::Cpu).unwrap();
    let pixels = Tensor::ones([1, 3, 64, 64], (Kind::Float, Device::Cpu)) * 0.25;
    let under = pixels.copy();
    let _ = under.narrow(2, 16, 16).narrow(3, 16, 16).fill_(9.0);
    let beside = pixels.copy();
    let _ = beside.narrow(2, 0, 1).narrow(3, 0, 1).fill_(9.0);
    let logits = |pixels: &Tensor| read(&model.forward_hidden(pixels, &hidden, None).unwrap());
    assert_eq!(logits(&pixels), logits(&under));
    assert_ne!(logits(&pixels), logits(&beside));
}

#[test]
fn inputs_of_another_shape_are_refused_in_words() {
    let model = Model::new(&beit_tiny(), 0, Device::Cpu).unwrap();
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let mask = zeros(&[2, 16]).to_kind(Kind::Bool);
    let error = model.forward(&zeros(&[2, 3, 48, 64]), &mask, None).unwrap_err().to_string();
    assert_eq!(error, "pixels has shape [2, 3, 48, 64], the model needs [B, 3, 64, 64]");
    let error = model.forward(&zeros(&[3, 3, 64, 64]), &mask, None).unwrap_err().to_string();
    assert_eq!(error, "mask has shape [2, 16], the model needs [3, 16]");
}

/// Loads `weights` changed by `change` and gives the complaint; checks that nothing was taken over.
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<(String, Tensor)>)) -> String {
    let other = Model::new(&beit_tiny(), 1, Device::Cpu).unwrap();
    let mut weights = other.state_dict();
    change(&mut weights);
    let model = Model::new(&beit_tiny(), 0, Device::Cpu).unwrap();
    let before: Vec<_> = model.parameters().iter().map(|(_, tensor)| read(tensor)).collect();
    let error = model.load(&weights).unwrap_err();
    assert!(matches!(error, ModelError::Weights { .. }));
    let after: Vec<_> = model.parameters().iter().map(|(_, tensor)| read(tensor)).collect();
    assert_eq!(before, after);
    error.to_string()
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let error = refused(|weights| weights.retain(|(name, _)| name != "blocks.1.attn.q_bias"));
    assert!(error.contains("blocks.1.attn.q_bias is missing"), "{error}");
    let error = refused(|weights| weights.push(("head.weight".to_owned(), Tensor::from(1f32))));
    assert!(error.contains("head.weight is unknown"), "{error}");
    let error = refused(|weights| weights[0].1 = weights[0].1.view([48]));
    assert!(error.contains("cls_token has shape [48], not [1, 1, 48]"), "{error}");
    let error = refused(|weights| weights.clear());
    assert!(error.contains("cls_token is missing") && error.contains("more"), "{error}");
}

#[test]
fn a_relative_position_index_of_another_layout_is_refused() {
    let error = refused(|weights| {
        let (_, index) =
            weights.iter_mut().find(|(name, _)| name.ends_with("relative_position_index")).unwrap();
        *index = index.transpose(0, 1).contiguous();
    });
    assert!(error.contains("relative_position_index holds other numbers"), "{error}");
}

#[test]
fn weights_load_without_buffers_and_from_another_kind() {
    let other = Model::new(&beit_tiny(), 1, Device::Cpu).unwrap();
    let doubles: Vec<_> = other
        .parameters()
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.detach().to_kind(Kind::Double)))
        .collect();
    let model = Model::new(&beit_tiny(), 0, Device::Cpu).unwrap();
    model.load(&doubles).unwrap();
    for ((name, own), (_, theirs)) in model.parameters().iter().zip(other.parameters()) {
        assert_eq!(read(own), read(theirs), "{name}");
        assert!(own.requires_grad() && own.kind() == Kind::Float, "{name}");
    }
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut ModelConfig), expect: &str) {
    let mut config = ModelConfig::base();
    change(&mut config);
    assert_eq!(Model::outline(&config).unwrap_err().to_string(), expect);
}

#[test]
fn sizes_that_do_not_go_together_are_named() {
    check_refused(|c| c.image_px = 225, "image_px = 225: must be a whole number of patches of 16 px");
    check_refused(|c| c.heads = 10, "width = 768: must be a multiple of the 10 heads");
    check_refused(|c| c.depth = 0, "depth = 0: must be at least 1");
    check_refused(|c| c.drop_path = 1.0, "drop_path = 1: must be in [0, 1)");
    check_refused(|c| c.mlp_ratio = f64::NAN, "mlp_ratio = NaN: must leave the MLP a width");
    check_refused(|c| c.eps = 0.0, "eps = 0: must be above 0");
}

#[test]
fn bf16_autocast_stays_near_fp32() {
    let weights = Golden::open_pth("beit-tiny/pretrain.pth");
    let expected = Golden::open("beit-tiny/pretrain.expected.safetensors");
    let model = Model::new(&beit_tiny(), 0, Device::Cpu).unwrap();
    model.load(weights.all()).unwrap();
    let mask = expected.get("mask").to_kind(Kind::Bool);
    let score = {
        let _small = beit_torch::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        let logits = model.forward(expected.get("input"), &mask, None).unwrap();
        assert_eq!(logits.kind(), Kind::BFloat16);
        loss::score(&logits, expected.get("labels")).unwrap()
    };
    assert_eq!(score.loss.kind(), Kind::Float);
    score.loss.f_backward().unwrap();
    assert!(relative_error(&score.loss.view([1]), expected.get("loss")) < 0.01);
    for (name, parameter) in model.parameters() {
        let error = relative_error(&parameter.grad(), expected.get(&format!("grad.{name}")));
        assert!(error < 0.1, "gradient of {name}: {error:e}");
    }
}
