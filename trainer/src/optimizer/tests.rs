use beit_torch::foreach_scale;
use tch::{Device, Kind, Tensor};

use super::{Optimizer, OptimizerOptions, is_exempt};
use crate::golden::{Golden, abs_pos, beit_tiny, read, relative_error};
use crate::loss;
use crate::model::{Model, ModelConfig};
use crate::schedule::Schedule;

/// A model whose gradients are filled with numbers that differ from step to step.
fn model() -> Model {
    Model::new(&ModelConfig { depth: 1, ..beit_tiny() }, 1, Device::Cpu).unwrap()
}

fn set_gradients(model: &Model, step: u32) {
    for (_, parameter) in model.parameters() {
        let wave = (Tensor::arange(parameter.numel() as i64, (Kind::Float, Device::Cpu))
            * (0.7 + f64::from(step)))
        .sin();
        let loss = (parameter * wave.view(parameter.size().as_slice())).sum(Kind::Float);
        loss.backward();
    }
}

fn advance(model: &Model, optimizer: &mut Optimizer, steps: std::ops::Range<u32>) {
    for step in steps {
        optimizer.zero_grad().unwrap();
        set_gradients(model, step);
        optimizer.set(1e-3, 0.05);
        let _ = optimizer.step(Some(1.0)).unwrap();
    }
}

fn weights(model: &Model) -> Vec<Vec<f32>> {
    model.parameters().iter().map(|(_, tensor)| read(tensor)).collect()
}

#[test]
fn six_clipped_and_scheduled_steps_equal_pytorchs() {
    let golden = Golden::open("beit-variants/abs-pos.safetensors");
    let model = Model::new(&abs_pos(), 0, Device::Cpu).unwrap();
    model.load(&golden.under("w.")).unwrap();
    let (pixels, mask) = (golden.get("input"), golden.get("mask").to_kind(Kind::Bool));
    let options = OptimizerOptions { betas: (0.9, 0.98), eps: 1e-8, weight_decay: 0.05 };
    let mut optimizer = Optimizer::new(model.parameters(), options).unwrap();
    let lr = Schedule::learning_rate(5e-3, 1e-4, 2, 6).unwrap();
    let decay = Schedule::weight_decay(0.05, Some(0.2), 6).unwrap();
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    for step in 0..6 {
        optimizer.set(lr.at(step), decay.at(step));
        let score = loss::score(&model.forward(pixels, &mask, None).unwrap(), golden.get("labels")).unwrap();
        optimizer.zero_grad().unwrap();
        score.loss.backward();
        norms.push(optimizer.step(Some(0.35)).unwrap());
        losses.push(score.loss);
    }
    assert!(relative_error(&Tensor::stack(&losses, 0), golden.get("losses")) < 1e-6);
    assert!(relative_error(&Tensor::stack(&norms, 0), golden.get("norms")) < 1e-5);
    for (name, parameter) in model.parameters() {
        let (start, end) = (golden.get(&format!("w.{name}")), golden.get(&format!("final.{name}")));
        // Adam's first steps have the size of lr whatever the gradient, so compare with how far each one went.
        let moved = (end - start).abs().max().double_value(&[]);
        let error = (parameter.detach() - end).abs().max().double_value(&[]);
        assert!(moved > 1e-3 && error < 2e-3 * moved, "{name}: off by {error:e} after {moved:e}");
    }
}

#[test]
fn groups_are_the_references() {
    let config = ModelConfig { abs_pos_emb: true, depth: 1, ..beit_tiny() };
    let model = Model::new(&config, 0, Device::Cpu).unwrap();
    let optimizer = Optimizer::new(model.parameters(), OptimizerOptions::default()).unwrap();
    let [none, decay] = optimizer.groups() else { panic!("two groups") };
    assert_eq!((none.name.as_str(), none.weight_decay), ("no_decay", 0.0));
    assert_eq!((decay.name.as_str(), decay.weight_decay), ("decay", 0.05));
    assert_eq!((none.lr_scale, decay.lr_scale), (1.0, 1.0));
    assert_eq!(
        decay.parameters,
        [
            "mask_token",
            "patch_embed.proj.weight",
            "rel_pos_bias.relative_position_bias_table",
            "blocks.0.attn.qkv.weight",
            "blocks.0.attn.proj.weight",
            "blocks.0.mlp.fc1.weight",
            "blocks.0.mlp.fc2.weight",
            "lm_head.weight",
        ]
    );
    assert_eq!(none.parameters[..3], ["cls_token", "pos_embed", "patch_embed.proj.bias"]);
    assert_eq!(none.parameters.len() + decay.parameters.len(), model.parameters().len());
}

#[test]
fn vectors_biases_and_positions_are_exempt_from_decay() {
    for (name, shape, expect) in [
        ("cls_token", &[1, 1, 8][..], true),
        ("pos_embed", &[1, 5, 8], true),
        ("mask_token", &[1, 1, 8], false),
        ("blocks.0.gamma_1", &[8], true),
        ("norm.weight", &[8], true),
        ("odd.bias", &[2, 4], true),
        ("rel_pos_bias.relative_position_bias_table", &[12, 2], false),
        ("backbone.cls_token", &[1, 1, 8], false),
    ] {
        assert_eq!(is_exempt(name, shape), expect, "{name}");
    }
}

#[test]
fn a_restored_state_continues_bit_for_bit() {
    let straight = model();
    let mut optimizer = Optimizer::new(straight.parameters(), OptimizerOptions::default()).unwrap();
    advance(&straight, &mut optimizer, 0..5);

    let first = model();
    let mut optimizer = Optimizer::new(first.parameters(), OptimizerOptions::default()).unwrap();
    advance(&first, &mut optimizer, 0..2);
    let copies = |tensors: &[(String, Tensor)]| -> Vec<(String, Tensor)> {
        tensors.iter().map(|(name, tensor)| (name.clone(), tensor.detach().copy())).collect()
    };
    let (saved_weights, mut saved_state) = (copies(&first.state_dict()), copies(&optimizer.state()));
    saved_state.reverse(); // the order of a file does not matter

    let resumed = Model::new(&ModelConfig { depth: 1, ..beit_tiny() }, 99, Device::Cpu).unwrap();
    resumed.load(&saved_weights).unwrap();
    let mut optimizer = Optimizer::new(resumed.parameters(), OptimizerOptions::default()).unwrap();
    optimizer.load_state(&saved_state).unwrap();
    advance(&resumed, &mut optimizer, 2..5);
    assert_eq!(weights(&straight), weights(&resumed));
}

#[test]
fn a_state_of_another_model_is_refused_in_words() {
    let model = model();
    let mut optimizer = Optimizer::new(model.parameters(), OptimizerOptions::default()).unwrap();
    let mut state = optimizer.state();
    assert_eq!(state.len(), 1 + 2 * model.parameters().len());
    state.retain(|(name, _)| name != "exp_avg.cls_token");
    let error = optimizer.load_state(&state).unwrap_err().to_string();
    assert!(error.contains("exp_avg.cls_token is missing"), "{error}");
}

#[test]
fn a_gradient_that_is_missing_is_named() {
    let model = model();
    let mut optimizer = Optimizer::new(model.parameters(), OptimizerOptions::default()).unwrap();
    optimizer.zero_grad().unwrap();
    let error = optimizer.step(None).unwrap_err().to_string();
    assert!(error.starts_with("parameter cls_token has no gradient"), "{error}");
}

#[test]
fn weight_decay_follows_its_schedule_only_where_there_is_some() {
    let model = model();
    let mut optimizer = Optimizer::new(model.parameters(), OptimizerOptions::default()).unwrap();
    let decays =
        |optimizer: &Optimizer| optimizer.groups().iter().map(|g| g.weight_decay).collect::<Vec<_>>();
    optimizer.set(1e-3, 0.1);
    assert_eq!(decays(&optimizer), [0.0, 0.1]);
    optimizer.set(1e-3, 0.0);
    optimizer.set(1e-3, 0.1);
    assert_eq!(decays(&optimizer), [0.0, 0.0], "a group that reached 0 stays there");
    let options = OptimizerOptions { weight_decay: 0.0, ..OptimizerOptions::default() };
    assert_eq!(Optimizer::new(model.parameters(), options).unwrap().groups().len(), 2);
}

#[test]
fn a_void_update_is_not_counted() {
    let model = model();
    let mut optimizer = Optimizer::new(model.parameters(), OptimizerOptions::default()).unwrap();
    advance(&model, &mut optimizer, 0..1);
    let before = weights(&model);
    let gradients = optimizer.gradients().unwrap();
    foreach_scale(&gradients, &Tensor::from(f32::NAN)).unwrap();
    optimizer.update(&gradients, Some(&Tensor::from(1f32))).unwrap();
    assert_eq!(weights(&model), before);
    assert_eq!(read(&optimizer.state()[0].1), [1.0]);
}

#[test]
fn overfits_one_batch() {
    let config = ModelConfig {
        depth: 2,
        image_px: 32,
        patch_px: 8,
        abs_pos_emb: true,
        init_values: 1.0,
        ..beit_tiny()
    };
    let model = Model::new(&config, 7, Device::Cpu).unwrap();
    let mut optimizer = Optimizer::new(model.parameters(), OptimizerOptions::default()).unwrap();
    let pixels = (Tensor::arange(2 * 3 * 32 * 32, (Kind::Float, Device::Cpu)) * 0.013).sin();
    let pixels = pixels.view([2, 3, 32, 32]);
    let flags: Vec<u8> = (0..32).map(|cell| u8::from(cell % 3 == 0)).collect();
    let tokens: Vec<u16> = (0..32).map(|cell| cell * 7 % 64).collect();
    let hidden = crate::model::Hidden::from_flags(&flags, 2, Device::Cpu).unwrap();
    let labels = loss::labels(&tokens, &flags, Device::Cpu).unwrap();
    let mut losses = Vec::new();
    for _ in 0..120 {
        let score = loss::score(&model.forward_hidden(&pixels, &hidden, None).unwrap(), &labels).unwrap();
        optimizer.zero_grad().unwrap();
        score.loss.backward();
        optimizer.set(5e-3, 0.05);
        let _ = optimizer.step(Some(3.0)).unwrap();
        losses.push(read(&score.loss)[0]);
    }
    let (first, last) = (losses[0], losses[119]);
    assert!(first > 4.0 && last < 0.1, "from {first} to {last}; ln 64 = 4.16");
}
