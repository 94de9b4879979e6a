use super::*;

fn data() -> DataFacts {
    DataFacts {
        digest: "d1".into(),
        samples: 1000,
        views: 2,
        token_px: 112,
        grid: [14, 14],
        tokenizer: "test".into(),
        tokenizer_digest: "t1".into(),
        vocab: 512,
        io: "mmap".into(),
    }
}

fn ask(settings: &[&str], ranks: u32) -> Ask {
    let mut recipe = Recipe { epochs: 10, ..Recipe::default() };
    for setting in settings {
        recipe.apply(setting).unwrap();
    }
    Ask {
        recipe_name: "test".into(),
        recipe,
        shards: "set.shards".into(),
        run: "test.run".into(),
        world: World::inside(ranks),
        device: Device::Cpu,
        resume_anyway: false,
    }
}

#[track_caller]
fn refused(settings: &[&str], ranks: u32, words: &str) {
    let message = Plan::decide(ask(settings, ranks), data()).unwrap_err().to_string();
    assert!(message.contains(words), "{message}");
}

#[test]
fn lengths_follow_the_reference() {
    let plan = Plan::decide(ask(&["batch_size=30"], 4), data()).unwrap();
    // floor(floor(1000 / 30) / 4) = 8, times 10 epochs; warm-up of 5 epochs; checkpoints every 20 epochs: the end.
    assert_eq!((plan.steps_per_epoch, plan.steps, plan.warmup_steps, plan.save_every_steps), (8, 80, 40, 80));
    assert_eq!(plan.global_batch, 120);
}

#[test]
fn warmup_steps_work_without_warmup_epochs() {
    let plan = Plan::decide(ask(&["warmup_epochs=0", "warmup_steps=7"], 1), data()).unwrap();
    assert_eq!(plan.warmup_steps, 7);
}

#[test]
fn a_few_samples_can_be_gone_over_many_times() {
    let plan = Plan::decide(ask(&["steps=50", "batch_size=4096", "warmup_steps=2"], 1), data()).unwrap();
    assert_eq!((plan.steps, plan.steps_per_epoch), (50, 0));
}

#[test]
fn things_that_do_not_go_together_are_named() {
    refused(&["input_size=448"], 1, "28x28 patches");
    refused(&["input_size=448"], 1, "14x14 tokens");
    refused(&["input_size=225"], 1, "225");
    refused(&["second_input_size=224"], 1, "views of 112 px");
    refused(&["num_mask_patches=196"], 1, "num_mask_patches 196");
    refused(&["batch_size=2000"], 1, "1000 samples, but batch_size 2000 x 1 ranks");
    refused(&["steps=10", "warmup_steps=11"], 1, "warm-up takes 11 steps");
    refused(&["num_heads=7"], 1, "multiple of the 7 heads");
}

#[test]
fn a_plan_survives_its_json() {
    let plan = Plan::decide(ask(&[], 2), data()).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

fn words(plan: &Plan, saved: &serde_json::Value) -> String {
    plan.differences(saved).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_has_other_shapes_is_told_from_what_means_something_else() {
    let saved = serde_json::to_value(Plan::decide(ask(&[], 2), data()).unwrap()).unwrap();
    for (settings, fits) in [
        (&["seed=1"][..], true),
        (&["order=blocks"], true),
        (&["batch_size=2"], true),
        (&["layer_scale_init_value=0.5"], true),
        (&["layer_scale_init_value=0"], false),
        (&["embed_dim=384"], false),
        (&["depth=3"], false),
        (&["abs_pos_emb=true"], false),
    ] {
        let found = Plan::decide(ask(settings, 2), data()).unwrap().differences(&saved);
        assert_eq!(found.iter().map(|found| found.weights).collect::<Vec<_>>(), [!fits], "{settings:?}");
    }
}

#[test]
fn checkpoints_are_due_at_both_intervals() {
    let plan = Plan::decide(ask(&["save_every_steps=30", "keep_every_steps=50"], 1), data()).unwrap();
    let due: Vec<u64> = (1..=150).filter(|step| plan.saves_after(*step)).collect();
    assert_eq!(due, [30, 50, 60, 90, 100, 120, 150]);
    assert!(
        plan.to_string().contains("every 30 steps, the last 3 kept and one every 50 steps, in test.run"),
        "{plan}"
    );
}

#[test]
fn another_data_set_tokenizer_or_model_does_not_continue_a_run() {
    let saved = serde_json::to_value(Plan::decide(ask(&[], 2), data()).unwrap()).unwrap();
    let differences =
        |settings: &[&str], ranks, data| words(&Plan::decide(ask(settings, ranks), data).unwrap(), &saved);
    assert_eq!(differences(&["lr=1e-4", "epochs=20", "keep_last=1"], 2, data()), "");
    assert_eq!(differences(&["batch_size=128"], 1, data()), ""); // the same global batch from other ranks
    assert_eq!(differences(&["seed=1"], 2, data()), "seed was 0, now 1");
    assert_eq!(differences(&["depth=3"], 2, data()), "depth was 12, now 3");
    assert_eq!(differences(&[], 1, data()), "batch_size x update_freq x ranks was 128, now 64");
    assert_eq!(
        differences(&["order=blocks"], 2, data()),
        "order was shuffle, now blocks of 128 samples, shuffled in windows of 128"
    );
    assert_eq!(differences(&["shuffle_block_samples=7"], 2, data()), "", "a key of the other order");
    assert_eq!(differences(&["io=pread", "read_ahead=0"], 2, data()), "");
    let other = DataFacts { tokenizer_digest: "t2".into(), vocab: 8192, digest: "d2".into(), ..data() };
    assert_eq!(
        differences(&[], 2, other),
        "data set was d1, now d2; tokenizer was t1, now t2; vocabulary was 512, now 8192"
    );
}

#[test]
fn another_order_does_not_continue_a_run_old_or_new() {
    let blocks = ["order=blocks", "shuffle_block_samples=64"];
    let saved = serde_json::to_value(Plan::decide(ask(&blocks, 2), data()).unwrap()).unwrap();
    let now = |settings: &[&str]| Plan::decide(ask(settings, 2), data()).unwrap();
    assert_eq!(now(&blocks).differences(&saved), []);
    assert_eq!(
        words(&now(&["order=blocks"]), &saved),
        "order was blocks of 64 samples, shuffled in windows of 128, now blocks of 128 samples, shuffled in windows of 128"
    );
    assert_eq!(now(&[]).differences(&saved).len(), 1);
    // A plan from before the key existed was shuffled over the whole set.
    let mut old = serde_json::to_value(now(&[])).unwrap();
    for key in ["order", "shuffle_block_samples", "shuffle_window_blocks", "io", "read_ahead"] {
        assert!(old["recipe"].as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    assert!(old["data"].as_object_mut().unwrap().remove("io").is_some());
    assert_eq!(now(&[]).differences(&old), []);
    assert_eq!(now(&blocks).differences(&old).len(), 1);
    assert_eq!(serde_json::from_value::<Plan>(old).unwrap().recipe, now(&[]).recipe);
}

#[test]
fn a_plan_prints_what_matters() {
    let text = Plan::decide(ask(&["clip_grad=3"], 2), data()).unwrap().to_string();
    for words in [
        "order        shuffle",
        "mmap, as a local file system is best read (io auto); 64 samples ahead",
        "14x14 of 512",
        "64 per rank x 2 ranks = 128",
        "clip 3",
        "75 of 196",
        "ranks 0..2 of 2",
    ] {
        assert!(text.contains(words), "{words} is missing from\n{text}");
    }
}
