use tch::{Device, Kind, Tensor};

use super::{Branch, DropPath, DropPathKey};
use crate::golden::{beit_tiny, read};
use crate::model::{Model, ModelConfig};

const KEY: DropPathKey = DropPathKey { seed: 3, step: 17, first_position: 0 };

fn gate(rates: &DropPath, key: DropPathKey, batch: i64, layer: usize, branch: Branch) -> Vec<f32> {
    let gates = rates.gates(Some(key), batch, Device::Cpu).unwrap();
    read(&gates.of(layer, branch).unwrap().unwrap())
}

#[test]
fn rates_rise_on_a_line_from_nothing() {
    let rates = DropPath::new(0.3, 4).rates;
    assert_eq!(
        rates.iter().map(|rate| (rate * 1e4).round()).collect::<Vec<_>>(),
        [0.0, 1000.0, 2000.0, 3000.0]
    );
    assert_eq!(DropPath::new(0.3, 1).rates, [0.0]);
}

#[test]
fn the_first_block_and_evaluation_drop_nothing() {
    let rates = DropPath::new(0.5, 3);
    let gates = rates.gates(Some(KEY), 4, Device::Cpu).unwrap();
    assert!(gates.of(0, Branch::Mlp).unwrap().is_none());
    assert!(gates.of(1, Branch::Mlp).unwrap().is_some());
    let gates = rates.gates(None, 4, Device::Cpu).unwrap();
    assert!(gates.of(2, Branch::Attention).unwrap().is_none());
}

#[test]
fn branches_are_dropped_at_their_rate_and_kept_ones_make_up_for_it() {
    let rates = DropPath::new(0.25, 3);
    for (layer, rate) in [(1, 0.125f32), (2, 0.25)] {
        for branch in [Branch::Attention, Branch::Mlp] {
            let gate = gate(&rates, KEY, 20_000, layer, branch);
            assert!(gate.iter().all(|value| *value == 0.0 || *value == 1.0 / (1.0 - rate)));
            let dropped = gate.iter().filter(|value| **value == 0.0).count() as f32 / 20_000.0;
            assert!((dropped - rate).abs() < 0.013, "{dropped} at layer {layer}"); // four standard deviations
        }
    }
}

#[test]
fn a_sample_draws_the_same_on_whichever_rank() {
    let rates = DropPath::new(0.5, 5);
    let whole = gate(&rates, KEY, 8, 4, Branch::Mlp);
    let second_rank = DropPathKey { first_position: 4, ..KEY };
    let parts = [gate(&rates, KEY, 4, 4, Branch::Mlp), gate(&rates, second_rank, 4, 4, Branch::Mlp)].concat();
    assert_eq!(whole, parts);
    assert_ne!(parts[..4], parts[4..]);
}

#[test]
fn branches_layers_steps_and_seeds_draw_apart() {
    let rates = DropPath::new(0.5, 3);
    let one = gate(&rates, KEY, 64, 2, Branch::Attention);
    let dropped = |gate: &[f32]| gate.iter().map(|value| *value == 0.0).collect::<Vec<_>>();
    for other in [
        gate(&rates, KEY, 64, 2, Branch::Mlp),
        gate(&rates, KEY, 64, 1, Branch::Attention),
        gate(&rates, DropPathKey { step: 18, ..KEY }, 64, 2, Branch::Attention),
        gate(&rates, DropPathKey { seed: 4, ..KEY }, 64, 2, Branch::Attention),
    ] {
        assert_ne!(dropped(&one), dropped(&other));
    }
}

#[test]
fn a_sample_whose_last_block_is_dropped_leaves_as_it_came_in() {
    // A parameter's first value depends on its name only, so the shallow model is the deep one's first block.
    let config = ModelConfig { depth: 2, drop_path: 0.5, init_values: 1.0, ..beit_tiny() };
    let deep = Model::new(&config, 5, Device::Cpu).unwrap();
    let shallow = Model::new(&ModelConfig { depth: 1, ..config.clone() }, 5, Device::Cpu).unwrap();
    let pixels = (Tensor::arange(16 * 3 * 64 * 64, (Kind::Float, Device::Cpu)) * 0.37).sin();
    let pixels = pixels.view([16, 3, 64, 64]);
    let rates = DropPath::new(0.5, 2);
    let (attention, mlp) =
        (gate(&rates, KEY, 16, 1, Branch::Attention), gate(&rates, KEY, 16, 1, Branch::Mlp));
    let with = deep.features(&pixels, None, Some(KEY)).unwrap();
    let without = shallow.features(&pixels, None, Some(KEY)).unwrap();
    let mut dropped = 0;
    for sample in 0..16 {
        let both = attention[sample] == 0.0 && mlp[sample] == 0.0;
        let same = read(&with.get(sample as i64)) == read(&without.get(sample as i64));
        assert_eq!(same, both, "sample {sample}");
        dropped += usize::from(both);
    }
    assert!((1..15).contains(&dropped), "{dropped} of 16 say nothing");
}
