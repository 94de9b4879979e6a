use tch::{Device, Kind, Tensor};

use std::time::Duration;

use super::{LossMean, Weights, labels, score};
use crate::golden::read;
use crate::model::ModelError;
use crate::ranks::{Comm, World, open};

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

/// Two ranks with two micro-batches each, of 3, 1, 6 and 2 hidden patches.
#[test]
fn micro_batches_weigh_alike_or_by_their_hidden_patches() {
    let (world, timeout) = (World::inside(2), Duration::from_secs(20));
    let (_server, point) = open(&world, timeout).unwrap();
    let weights: Vec<_> = std::thread::scope(|scope| {
        let ranks = [[3, 1], [6, 2]].map(|hidden| {
            let (point, world) = (&point, &world);
            scope.spawn(move || {
                let rank = u32::from(hidden[0] == 6);
                let comm = Comm::join(point, rank, world, None, timeout).unwrap();
                let get = |mean| Weights::ask(mean, &comm, &hidden).unwrap().get().unwrap();
                [get(LossMean::Rank), get(LossMean::Global)]
            })
        });
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    // The mean over ranks of these, times each one's own mean, is the mean of means, and the sum of all losses by 12.
    assert_eq!(weights[0], [vec![0.5, 0.5], vec![3.0 * 2.0 / 12.0, 1.0 * 2.0 / 12.0]]);
    assert_eq!(weights[1], [vec![0.5, 0.5], vec![6.0 * 2.0 / 12.0, 2.0 * 2.0 / 12.0]]);
}
