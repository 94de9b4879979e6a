use tch::{Device, Kind, Tensor};

use super::{labels, score};
use crate::golden::read;
use crate::model::ModelError;

#[test]
fn guessing_evenly_costs_the_logarithm_of_the_vocabulary() {
    let logits = Tensor::zeros([5, 64], (Kind::Float, Device::Cpu));
    let score = score(&logits, &Tensor::from_slice(&[0i64, 1, 2, 3, 63])).unwrap();
    assert!((read(&score.loss)[0] - 64f32.ln()).abs() < 1e-6);
    assert_eq!(score.hidden, 5);
}

#[test]
fn accuracy_is_the_share_of_right_guesses() {
    let logits = Tensor::from_slice(&[3f32, 1.0, 0.0, 5.0, 2.0, 2.5, 9.0, 8.0]).view([4, 2]);
    let score = score(&logits, &Tensor::from_slice(&[0i64, 1, 0, 0])).unwrap();
    assert_eq!(read(&score.mlm_acc), [0.75]);
}

#[test]
fn labels_are_the_tokens_under_the_mask_in_order() {
    let picked = labels(&[10, 11, 12, 8191, 14, 15], &[0, 1, 0, 1, 1, 0], Device::Cpu).unwrap();
    assert_eq!(read(&picked), [11.0, 8191.0, 14.0]);
    assert!(labels(&[1, 2], &[1], Device::Cpu).is_err());
}

#[test]
fn a_batch_with_nothing_hidden_is_an_error_not_a_nan() {
    let logits = Tensor::zeros([0, 64], (Kind::Float, Device::Cpu));
    let none = labels(&[1, 2], &[0, 0], Device::Cpu).unwrap();
    assert!(matches!(score(&logits, &none), Err(ModelError::NothingHidden)));
}

#[test]
fn labels_that_do_not_match_the_guesses_are_refused() {
    let logits = Tensor::zeros([2, 64], (Kind::Float, Device::Cpu));
    let error = score(&logits, &Tensor::from_slice(&[1i64])).unwrap_err().to_string();
    assert_eq!(error, "labels has shape [1], the model needs [2], one for each row of logits");
}
