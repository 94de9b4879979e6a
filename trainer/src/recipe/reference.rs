//! The reference's options and published commands, held against our keys, recipes and documents.

use std::collections::BTreeSet;

use super::*;
use crate::plan::{Ask, DataFacts, Plan};

/// Every option of the reference's pre-training parser (`run_beit_pretraining.py`), in its order.
const OPTIONS: &[&str] = &[
    "batch_size",
    "epochs",
    "save_ckpt_freq",
    "discrete_vae_weight_path",
    "discrete_vae_type",
    "model",
    "rel_pos_bias",
    "disable_rel_pos_bias",
    "abs_pos_emb",
    "layer_scale_init_value",
    "num_mask_patches",
    "max_mask_patches_per_block",
    "min_mask_patches_per_block",
    "input_size",
    "second_input_size",
    "drop_path",
    "opt",
    "opt_eps",
    "opt_betas",
    "clip_grad",
    "momentum",
    "weight_decay",
    "weight_decay_end",
    "lr",
    "warmup_lr",
    "min_lr",
    "warmup_epochs",
    "warmup_steps",
    "train_interpolation",
    "second_interpolation",
    "data_path",
    "imagenet_default_mean_and_std",
    "output_dir",
    "log_dir",
    "device",
    "seed",
    "resume",
    "auto_resume",
    "no_auto_resume",
    "start_epoch",
    "num_workers",
    "pin_mem",
    "no_pin_mem",
    "world_size",
    "local_rank",
    "dist_on_itp",
    "dist_url",
];

/// The page that maps the reference's commands to ours.
const PAGE: &str = include_str!("../../../docs/from-unilm.md");

#[test]
fn every_option_of_the_reference_is_a_key_or_said_to_be_elsewhere() {
    let keys: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    let elsewhere: BTreeSet<_> = ELSEWHERE.iter().map(|(name, _)| *name).collect();
    for option in OPTIONS {
        assert!(
            keys.contains(option) != elsewhere.contains(option),
            "{option} must be a key or in ELSEWHERE, and not both"
        );
        assert!(PAGE.contains(&format!("`{option}`")), "docs/from-unilm.md does not name {option}");
    }
    let known: BTreeSet<_> = OPTIONS.iter().copied().collect();
    let strange: Vec<_> = elsewhere.difference(&known).collect();
    assert!(strange.is_empty(), "ELSEWHERE names what the reference does not have: {strange:?}");
    for (recipe, _) in EMBEDDED.iter().filter(|(name, _)| !name.ends_with("-cpu")) {
        assert!(PAGE.contains(&format!("`{recipe}`")), "docs/from-unilm.md does not name {recipe}");
    }
}

#[test]
fn every_quirk_of_the_reference_has_a_line() {
    let decisions = include_str!("../../../docs/decisions.md");
    for quirk in 1..=46 {
        let line = decisions.lines().find(|line| line.starts_with(&format!("| Q{quirk} |"))).unwrap_or("");
        assert!(
            ["kept", "fixed", "*open until"].iter().any(|word| line.contains(&format!("| {word}"))),
            "Q{quirk} has no decision: {line}"
        );
    }
}

/// What a recipe comes to with so many samples on the reference's 16 ranks.
fn plan(name: &str, samples: u64) -> Plan {
    let (recipe_name, recipe) = Recipe::find(name).unwrap();
    let data = DataFacts {
        digest: "d".into(),
        samples,
        views: 16,
        token_px: 112,
        grid: [14, 14],
        tokenizer: "dall-e".into(),
        tokenizer_digest: "t".into(),
        vocab: 8192,
        io: "mmap".into(),
    };
    let ask = Ask {
        recipe_name,
        recipe,
        shards: "set.shards".into(),
        run: "test.run".into(),
        world: crate::ranks::World::inside(16),
        device: crate::device::Device::Cpu,
    };
    Plan::decide(ask, data).unwrap()
}

#[test]
fn the_recipes_are_the_references_commands() {
    // samples, then: steps of an epoch, warm-up, all, ImageNet's mean, width, layer scale, clipping
    let (full, one_k) = (14_197_122, 1_281_167);
    for (name, samples, expected) in [
        ("pretrain-base-22k", full, (6932, 10_000, 1_039_800, false, 768, 0.1, 3.0)),
        ("pretrain-base-1k", one_k, (625, 6250, 500_000, true, 768, 0.1, 3.0)),
        ("pretrain-large-22k", full, (6932, 10_000, 1_039_800, false, 1024, 1e-5, 1.0)),
        ("pretrain-large-1k", one_k, (625, 6250, 500_000, true, 1024, 1e-5, 1.0)),
    ] {
        let plan = plan(name, samples);
        let recipe = &plan.recipe;
        let found = (
            plan.steps_per_epoch,
            plan.warmup_steps,
            plan.steps,
            recipe.imagenet_default_mean_and_std,
            recipe.model_config(8192).width,
            recipe.layer_scale_init_value,
            recipe.clip_grad.unwrap(),
        );
        assert_eq!(found, expected, "{name}");
        assert_eq!(plan.global_batch, 2048, "{name}");
        assert_eq!((recipe.lr, recipe.min_lr, recipe.drop_path), (1.5e-3, 1e-5, 0.1), "{name}");
        assert_eq!((recipe.num_mask_patches, recipe.weight_decay), (75, 0.05), "{name}");
        assert_eq!((recipe.opt_betas, recipe.opt_eps), ((0.9, 0.999), 1e-8), "{name}");
    }
}

/// The command of the released `pt1k_800ep` checkpoint is the 1k recipe with three more settings.
#[test]
fn the_released_800_epoch_checkpoints_model_can_be_asked_for() {
    let (_, mut recipe) = Recipe::find("pretrain-base-1k").unwrap();
    for setting in ["rel_pos_bias=false", "abs_pos_emb=true", "layer_scale_init_value=0"] {
        recipe.apply(setting).unwrap();
    }
    let model = recipe.model_config(8192);
    assert!(!model.rel_pos_bias && model.abs_pos_emb && model.init_values <= 0.0);
}
