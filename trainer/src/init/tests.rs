use std::thread;

use tch::{Device, Kind};

use super::Fill;
use crate::golden::{beit_tiny, read};
use crate::model::{Model, ModelConfig};

#[test]
fn pre_training_weights_are_cut_at_one_standard_deviation() {
    let values = Fill::PRETRAIN.tensor(1, "lm_head.weight", &[1000, 500]).unwrap();
    let of = |tensor: tch::Tensor| tensor.double_value(&[]);
    assert_eq!(values.size(), [1000, 500]);
    let (mean, sd) = (of(values.mean(Kind::Double)), of(values.to_kind(Kind::Double).std(false)));
    assert!(mean.abs() < 6e-5, "{mean:e}"); // four standard errors
    assert!((sd / (0.5396 * 0.02) - 1.0).abs() < 0.005, "{sd}");
    assert!(of(values.abs().max()) <= 0.02 + 1e-9);
    assert!(of(values.abs().max()) > 0.0199, "the cut is reached, not avoided");
}

#[test]
fn a_far_cut_leaves_an_ordinary_normal() {
    let fill = Fill::TruncatedNormal { std: 0.02, cut: 100.0, divisor: 1.0 };
    let values = fill.tensor(1, "head.weight", &[500_000]).unwrap();
    let sd = values.to_kind(Kind::Double).std(false).double_value(&[]);
    assert!((sd / 0.02 - 1.0).abs() < 0.005, "{sd}");
    assert!(bool::try_from(values.isfinite().all()).unwrap());
}

#[test]
fn the_last_matrix_of_a_branch_shrinks_with_depth() {
    let plain = Fill::PRETRAIN.tensor(1, "w", &[64]).unwrap();
    let deep = Fill::PRETRAIN.at_depth(7).tensor(1, "w", &[64]).unwrap();
    assert_eq!(read(&(plain / 4.0)), read(&deep)); // √(2·8) = 4
}

#[test]
fn a_parameter_depends_on_seed_and_name_and_on_nothing_else() {
    let draw = |seed, name: &str| read(&Fill::PRETRAIN.tensor(seed, name, &[100]).unwrap());
    assert_ne!(draw(1, "a"), draw(2, "a"));
    assert_ne!(draw(1, "a"), draw(1, "b"));
    let weights = |config: &ModelConfig| {
        let model = Model::new(config, 8, Device::Cpu).unwrap();
        model.parameters().iter().map(|(name, tensor)| (name.clone(), read(tensor))).collect::<Vec<_>>()
    };
    let one = thread::spawn(move || weights(&beit_tiny()));
    let other = thread::spawn(move || weights(&beit_tiny()));
    let (one, other) = (one.join().unwrap(), other.join().unwrap());
    assert_eq!(one, other);
    let shallow = weights(&ModelConfig { depth: 1, ..beit_tiny() });
    assert!(shallow.iter().all(|parameter| one.contains(parameter)));
}

#[test]
fn every_parameter_starts_as_the_reference_starts_it() {
    let config = ModelConfig { abs_pos_emb: true, ..beit_tiny() };
    let model = Model::new(&config, 0, Device::Cpu).unwrap();
    for (name, tensor) in model.parameters() {
        let values = read(tensor);
        let all = |expect: f32| values.iter().all(|value| *value == expect);
        let spread = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        if name.contains("gamma") {
            assert!(all(0.1), "{name}");
        } else if name.ends_with("bias") || name.ends_with("bias_table") {
            assert!(all(0.0), "{name}");
        } else if name.contains("norm") {
            assert!(all(1.0), "{name}");
        } else if name.contains("attn.proj") || name.contains("fc2") {
            let layer: f32 = name.split('.').nth(1).unwrap().parse().unwrap();
            let most = 0.02 / (2.0 * (layer + 1.0)).sqrt();
            assert!((0.95 * most..=most * 1.0001).contains(&spread), "{name}: {spread}");
        } else {
            assert!((0.018..=0.02001).contains(&spread), "{name}: {spread}");
        }
    }
}

/// Mean, standard deviation and largest number of every parameter of base and large.
#[test]
#[ignore = "a minute: make parity"]
fn full_size_models_start_as_the_reference_starts_them() {
    for (config, gamma) in [(ModelConfig::base(), 0.1f32), (ModelConfig::large(), 1e-5)] {
        let model = Model::new(&config, 0, Device::Cpu).unwrap();
        let mut worst = 0.0f64;
        for (name, tensor) in model.parameters() {
            let of = |tensor: tch::Tensor| tensor.double_value(&[]);
            let tensor = tensor.detach();
            let (low, high) = (of(tensor.min()), of(tensor.max()));
            let all = |expect: f32| (low == f64::from(expect) && high == f64::from(expect)).then_some(());
            if name.contains("gamma") {
                all(gamma).unwrap_or_else(|| panic!("{name}: {low} to {high}"));
            } else if name.ends_with("bias") || name.ends_with("bias_table") {
                all(0.0).unwrap_or_else(|| panic!("{name}: {low} to {high}"));
            } else if name.contains("norm") {
                all(1.0).unwrap_or_else(|| panic!("{name}: {low} to {high}"));
            } else {
                let shrunk = name.contains("attn.proj") || name.contains("fc2");
                let layer: f64 = name.split('.').nth(1).and_then(|layer| layer.parse().ok()).unwrap_or(0.0);
                let divisor = if shrunk { (2.0 * (layer + 1.0)).sqrt() } else { 1.0 };
                let (cut, sd) = (0.02 / divisor, 0.02 * 0.539_56 / divisor);
                let count = tensor.numel() as f64;
                let (mean, found) =
                    (of(tensor.mean(Kind::Double)), of(tensor.to_kind(Kind::Double).std(false)));
                assert!(low >= -cut * 1.000_001 && high <= cut * 1.000_001, "{name}: {low} to {high}");
                assert!(mean.abs() < 5.0 * sd / count.sqrt(), "{name}: mean {mean:e}");
                assert!((found / sd - 1.0).abs() < 5.0 / count.sqrt(), "{name}: {found:e}, not {sd:e}");
                worst = worst.max((found / sd - 1.0).abs() * count.sqrt());
            }
        }
        eprintln!(
            "width {}: {} parameters; worst deviation {worst:.2} / sqrt(n)",
            config.width,
            model.parameter_count()
        );
    }
}
