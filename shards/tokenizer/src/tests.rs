//! Parity with the `dall-e` package's numbers, and what every file and call must do.

use crate::tokenizer::{Networks, map_pixels};
use crate::train::{self, Options, Want};
use crate::weights::Weights;
use crate::{Card, Tokenizer, TokenizerError};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn dalle(name: &str) -> PathBuf {
    golden("dalle-tiny").join(name)
}

/// One thread: tests run side by side, and threads that wait for a busy core spin.
fn alone() {
    crate::set_threads(1);
}

fn open(path: &Path) -> Tokenizer {
    alone();
    Tokenizer::open(path, Device::Cpu).unwrap()
}

#[track_caller]
fn refused(path: &Path) -> String {
    Tokenizer::open(path, Device::Cpu).unwrap_err().to_string()
}

fn tensor(file: &beit_torchfile::Safetensors, name: &str) -> Tensor {
    let tensor = file.get(name).unwrap();
    let size: Vec<i64> = tensor.shape().iter().map(|&n| n as i64).collect();
    match tensor.to_i64_vec() {
        Some(values) => Tensor::from_slice(&values).view(&size[..]),
        None => Tensor::from_slice(&tensor.to_f32_vec()).view(&size[..]),
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let key = beit_views::SeedKey { seed, stream: 0, index: 0, purpose: beit_views::Purpose::View };
    let mut draws = key.draws();
    (0..len).map(|_| draws.below(256) as u8).collect()
}

/// Blobs of colour: something that a dVAE of a few steps can tell apart.
fn blobs(px: usize, count: usize, seed: u64) -> Vec<u8> {
    let key = beit_views::SeedKey { seed, stream: 1, index: 0, purpose: beit_views::Purpose::View };
    let mut draws = key.draws();
    let mut out = Vec::with_capacity(count * px * px * 3);
    for _ in 0..count {
        let waves: Vec<[f64; 4]> = (0..3)
            .map(|_| [draws.uniform(0.0, 6.3), draws.uniform(0.0, 0.2), draws.uniform(0.0, 0.2), 127.0])
            .collect();
        for y in 0..px {
            for x in 0..px {
                let colour = waves
                    .iter()
                    .map(|[phase, fx, fy, a]| a + a * (phase + fx * x as f64 + fy * y as f64).sin());
                out.extend(colour.map(|value| value as u8));
            }
        }
    }
    out
}

fn small(seed: u64) -> Options {
    Options {
        vocab: 32,
        hidden: 8,
        decoder_init: 8,
        groups: 3,
        blocks: 1,
        px: 16,
        steps: 4,
        batch: 8,
        warmup: 2,
        measure_every: 2,
        seed,
        ..Options::default()
    }
}

fn train_on_blobs(options: &Options) -> train::Trained {
    alone();
    let px = options.px as usize;
    let mut images = |want, out: &mut [u8]| {
        let seed = match want {
            Want::Step(step) => step,
            Want::Init(n) => 1_000_000 + u64::from(n),
        };
        out.copy_from_slice(&blobs(px, out.len() / (px * px * 3), seed));
        Ok(())
    };
    let held_out = blobs(px, 32, 2_000_000);
    train::train(options, Card::default(), &mut images, &held_out, &mut |_| ()).unwrap()
}

#[test]
fn tokens_logits_and_reconstruction_equal_the_references_in_every_container() {
    let expected = beit_torchfile::read_safetensors(dalle("expected.safetensors")).unwrap();
    let logits = tensor(&expected, "logits");
    let tokens = tensor(&expected, "tokens");
    let scale = logits.abs().max().double_value(&[]);
    for name in ["encoder.pkl", "encoder.legacy.pkl", "encoder.state_dict.pth"] {
        let tokenizer = open(&dalle(name));
        let ours = tokenizer.logits(&tensor(&expected, "input")).unwrap();
        let error = (&ours - &logits).abs().max().double_value(&[]) / scale;
        assert!(error <= 1e-5, "{name}: relative error {error}");
        assert!(ours.argmax(1, false).equal(&tokens), "{name}");
        assert_eq!((tokenizer.vocab(), tokenizer.stride(), tokenizer.geometry().hidden), (64, 8, 16));
    }
    let tokenizer = open(&golden("dalle-tiny"));
    assert!(tokenizer.has_decoder());
    let recon = tensor(&expected, "recon");
    let ours = tokenizer.maps(&tokens).unwrap();
    let error = (&ours - &recon).abs().max().double_value(&[]) / recon.abs().max().double_value(&[]);
    assert!(error <= 1e-5, "decoder: relative error {error}");
}

#[test]
fn encode_and_decode_are_the_networks_on_bytes() {
    let tokenizer = open(&golden("dalle-tiny"));
    let pixels = noise(3 * 32 * 32 * 3, 7);
    let mut tokens = vec![9];
    tokenizer.encode(&pixels, 3, 32, &mut tokens).unwrap();
    assert_eq!((tokens.len(), tokens[0]), (1 + 3 * 16, 9), "tokens are appended");
    let floats: Vec<f32> = pixels.iter().map(|&p| p as f32 / 255.0 * 0.8f32 + 0.1f32).collect();
    let mapped = Tensor::from_slice(&floats).view([3, 32, 32, 3]).permute([0, 3, 1, 2]);
    let ids = tokenizer.logits(&mapped).unwrap().argmax(1, false).view([-1]);
    let ids = Vec::<i64>::try_from(ids).unwrap();
    assert_eq!(tokens[1..].iter().map(|&token| i64::from(token)).collect::<Vec<_>>(), ids);

    let seen = tokenizer.decode(&tokens[1..], 3, (4, 4)).unwrap();
    assert_eq!(seen.len(), pixels.len());
    let maps = tokenizer.maps(&Tensor::from_slice(&ids).view([3, 4, 4])).unwrap();
    let x = ((maps.narrow(1, 0, 3).sigmoid() - 0.1) / 0.8).clamp(0.0, 1.0) * 255.0;
    let x = Vec::<f32>::try_from(x.round().permute([0, 2, 3, 1]).contiguous().view([-1])).unwrap();
    assert!(seen.iter().zip(&x).all(|(&a, &b)| f32::from(a) == b));
}

#[test]
fn a_token_depends_on_its_own_image_alone() {
    let tokenizer = open(&dalle("encoder.pkl"));
    let pixels = noise(19 * 32 * 32 * 3, 1);
    let mut together = Vec::new();
    tokenizer.encode(&pixels, 19, 32, &mut together).unwrap();
    let mut apart = Vec::new();
    for image in pixels.chunks(32 * 32 * 3) {
        tokenizer.encode(image, 1, 32, &mut apart).unwrap();
    }
    assert_eq!(together, apart);
}

#[test]
fn bf16_changes_few_tokens_and_says_so_in_its_name() {
    let tokens = |precision| {
        let tokenizer = Tokenizer::find(Some("embedded")).unwrap().with_precision(precision);
        let mut tokens = Vec::new();
        tokenizer.encode(&blobs(112, 8, 5), 8, 112, &mut tokens).unwrap();
        (tokens, tokenizer.name_in_sets())
    };
    let (fp32, fp32_name) = tokens(crate::Precision::Fp32);
    let (bf16, bf16_name) = tokens(crate::Precision::Bf16);
    assert_eq!((fp32_name.as_str(), bf16_name.as_str()), ("demo", "demo (bf16)"));
    let same = fp32.iter().zip(&bf16).filter(|(a, b)| a == b).count();
    assert!(same < fp32.len(), "bf16 computes something else");
    assert!(same * 10 > fp32.len() * 9, "{same} of {} tokens agree", fp32.len());
    for name in ["demo", "demo (bf16)"] {
        let tokenizer = Tokenizer::find(Some("embedded")).unwrap();
        assert_eq!(
            tokenizer.as_in_set(name).name_in_sets(),
            name,
            "a set's tokens are made again as they were"
        );
    }
}

#[test]
fn equal_logits_give_the_lowest_code_and_broken_weights_an_error() {
    let tokenizer = open(&dalle("encoder.pkl"));
    let head = tokenizer.lock().encoder.head().weight.shallow_clone();
    let bias = tokenizer.lock().encoder.head().bias.shallow_clone();
    tch::no_grad(|| {
        let _ = head.shallow_clone().zero_();
        let _ = bias.shallow_clone().fill_(-1.0);
        let _ = bias.narrow(0, 17, 3).fill_(2.0);
    });
    let pixels = noise(32 * 32 * 3, 2);
    let mut tokens = Vec::new();
    tokenizer.encode(&pixels, 1, 32, &mut tokens).unwrap();
    assert_eq!(tokens, [17; 16]);
    tch::no_grad(|| {
        let _ = bias.narrow(0, 5, 1).fill_(f64::NAN);
    });
    let error = tokenizer.encode(&pixels, 1, 32, &mut tokens).unwrap_err().to_string();
    assert!(error.contains("non-finite logits"), "{error}");
}

#[test]
fn the_same_weights_have_the_same_digest_in_every_container() {
    let folder = tempfile::tempdir().unwrap();
    let whole = open(&golden("dalle-tiny"));
    let own = folder.path().join("own.safetensors");
    whole.save(&own).unwrap();
    let first = std::fs::read(&own).unwrap();
    whole.save(&own).unwrap();
    assert_eq!(std::fs::read(&own).unwrap(), first, "saving is deterministic");
    for path in [dalle("encoder.pkl"), dalle("encoder.legacy.pkl"), dalle("encoder.state_dict.pth"), own] {
        let tokenizer = open(&path);
        assert_eq!(tokenizer.digest_hex(), whole.digest_hex(), "{}", path.display());
        assert_eq!(tokenizer.name(), whole.name());
    }
    assert_eq!(whole.name(), format!("dall-e-{}", &whole.digest_hex()[..8]));
}

#[test]
fn another_weight_or_another_gain_is_another_digest() {
    let encoder = |change: &dyn Fn(&mut Vec<f32>, &mut Weights)| {
        let mut weights = Weights::new("test", Device::Cpu);
        let file = beit_torchfile::TorchFile::open(dalle("encoder.state_dict.pth")).unwrap();
        for (name, tensor) in file.state_dict(&[]).unwrap() {
            let mut values = tensor.to_f32_vec();
            if name == "blocks.output.conv.b" {
                change(&mut values, &mut weights);
            }
            weights.insert(&name, tensor.shape(), &values).unwrap();
        }
        let encoder = crate::network::Encoder::new(weights, None).unwrap();
        Tokenizer::new("test", Card::default(), Networks { encoder, decoder: None }, Device::Cpu).unwrap()
    };
    let same = encoder(&|_, _| ());
    assert_eq!(same.digest(), open(&dalle("encoder.pkl")).digest());
    assert_ne!(same.digest(), encoder(&|values, _| values[3] += 1e-7).digest());
    let other_gain = encoder(&|_, weights| weights.insert_gain("blocks.group_2.block_1", 0.5));
    assert_ne!(same.digest(), other_gain.digest());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gain.safetensors");
    other_gain.save(&path).unwrap();
    assert_eq!(open(&path).digest(), other_gain.digest(), "odd gains survive our own file");
}

#[test]
fn wrong_files_say_what_they_are() {
    let beit = refused(&golden("beit-tiny/pretrain.pth"));
    assert!(
        beit.contains("not a DALL-E tokenizer") && beit.contains("BEiT pre-training checkpoint"),
        "{beit}"
    );
    let decoder = refused(&dalle("decoder.pkl"));
    assert!(decoder.contains("a dVAE decoder of 64 codes") && decoder.contains("encoder.pkl"), "{decoder}");
    let other = refused(&dalle("expected.safetensors"));
    assert!(other.contains("not a DALL-E tokenizer"), "{other}");
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(folder.path()).contains("no encoder.pkl in this folder"));
    let text = folder.path().join("encoder.pkl");
    std::fs::write(&text, "<html>403</html>").unwrap();
    assert!(refused(&text).contains("web page"), "{}", refused(&text));
    let missing = folder.path().join("none.pkl");
    assert!(refused(&missing).contains("none.pkl"));
    std::fs::copy(dalle("encoder.pkl"), &text).unwrap();
    std::fs::copy(dalle("encoder.pkl"), folder.path().join("decoder.pkl")).unwrap();
    assert!(refused(folder.path()).contains("a dVAE decoder was expected beside the encoder"));
}

#[test]
fn tensors_that_do_not_fit_together_are_named_with_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.safetensors");
    let file = beit_torchfile::TorchFile::open(dalle("encoder.state_dict.pth")).unwrap();
    let sound = file.state_dict(&[]).unwrap();
    let check = |tensors: &[(String, beit_torchfile::Tensor)], expect: &[&str]| {
        let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        beit_torchfile::write_safetensors(&path, tensors, &Default::default()).unwrap();
        let error = refused(&path);
        assert!(expect.iter().all(|words| error.contains(words)), "{error}");
    };
    let mut missing = sound.clone();
    missing.retain(|(name, _)| name != "blocks.group_3.block_2.res_path.conv_2.b");
    check(&missing, &["blocks.group_3.block_2.res_path.conv_2.b", "is missing"]);
    let mut extra = sound.clone();
    extra.push((
        "blocks.group_1.block_1.extra".into(),
        beit_torchfile::Tensor::from_f32(&[1], &[0.0]).unwrap(),
    ));
    check(&extra, &["blocks.group_1.block_1.extra", "has no place"]);
    let mut narrow = sound.clone();
    for (name, tensor) in &mut narrow {
        if name == "blocks.group_2.block_1.res_path.conv_1.w" {
            *tensor = beit_torchfile::Tensor::from_f32(&[8, 15, 3, 3], &[0.0; 8 * 15 * 9]).unwrap();
        }
    }
    check(&narrow, &["blocks.group_2.block_1.res_path.conv_1.w", "[8, 15, 3, 3]", "16 channels come in"]);
    let mut gap = sound;
    gap.retain(|(name, _)| !name.contains("group_2"));
    check(&gap, &["groups 1, 3, 4", "without gaps"]);
}

#[test]
fn images_that_are_no_whole_number_of_tokens_are_refused_with_the_numbers() {
    let tokenizer = open(&dalle("encoder.pkl"));
    let error = tokenizer.encode(&[0; 100 * 100 * 3], 1, 100, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("100 px") && error.contains("8 × 8 px") && error.contains("96 or 104"), "{error}");
    let error = tokenizer.grid(4).unwrap_err().to_string();
    assert!(error.contains("8 or 16"), "{error}");
    let error = tokenizer.encode(&[0; 7], 1, 32, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, TokenizerError::Length { expected: 3072, found: 7, .. }));
    let error = open(&golden("dalle-tiny")).decode(&[63, 64], 1, (1, 2)).unwrap_err().to_string();
    assert!(error.contains("token 64 is beyond the vocabulary of 64"), "{error}");
    let error = open(&dalle("encoder.legacy.pkl")).decode(&[0], 1, (1, 1)).unwrap_err().to_string();
    assert!(error.contains("has no decoder"), "{error}");
}

#[test]
fn without_a_tokenizer_the_error_tells_three_ways_out() {
    let error = TokenizerError::NoneFound { looked: "./dall_e_tokenizer_weight".into() }.to_string();
    for words in ["cdn.openai.com/dall-e/encoder.pkl", "beit-shard tokenizer train", "--tokenizer embedded"] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn the_embedded_tokenizer_is_small_alive_and_honest() {
    alone();
    let tokenizer = Tokenizer::find(Some("embedded")).unwrap();
    assert_eq!((tokenizer.vocab(), tokenizer.stride(), tokenizer.has_decoder()), (512, 8, true));
    assert_eq!(tokenizer.name(), "demo");
    assert!(tokenizer.card().about.contains("not for training a real BEiT"));
    let size = std::fs::metadata(Path::new(env!("CARGO_MANIFEST_DIR")).join("embedded/demo.safetensors"))
        .unwrap()
        .len();
    assert!(size <= 2_500_000, "{size} bytes");
    let measured = train::measure(&tokenizer, 112, &blobs(112, 16, 3)).unwrap();
    assert!(measured.used_codes >= 20 && measured.psnr_db > 10.0, "{measured:?}");
}

#[test]
fn a_trained_tokenizer_of_three_groups_survives_its_file() {
    let trained = train_on_blobs(&small(1));
    let tokenizer = trained.tokenizer;
    assert_eq!((tokenizer.stride(), tokenizer.vocab(), tokenizer.geometry().groups), (4, 32, 3));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("three.safetensors");
    tokenizer.save(&path).unwrap();
    let again = open(&path);
    assert_eq!(
        (again.digest(), again.geometry(), again.card()),
        (tokenizer.digest(), tokenizer.geometry(), tokenizer.card())
    );
    let pixels = blobs(16, 5, 9);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    tokenizer.encode(&pixels, 5, 16, &mut before).unwrap();
    again.encode(&pixels, 5, 16, &mut after).unwrap();
    assert_eq!(before, after);
    assert_eq!(tokenizer.decode(&before, 5, (4, 4)).unwrap(), again.decode(&after, 5, (4, 4)).unwrap());
}

#[test]
fn the_same_seed_gives_the_same_weights_and_another_seed_others() {
    let digest = |options: &Options| train_on_blobs(options).tokenizer.digest_hex();
    assert_eq!(digest(&small(5)), digest(&small(5)));
    assert_ne!(digest(&small(5)), digest(&small(6)));
    let plain = Options { usage_weight: 0.0, kl_weight: 6.6, data_init: false, ..small(5) };
    assert_ne!(digest(&small(5)), digest(&plain));
    assert_eq!(digest(&plain), digest(&plain));
}

#[test]
fn training_lowers_the_loss_and_keeps_codes_in_use() {
    alone();
    let options = Options { steps: 250, hidden: 16, groups: 2, ..small(0) };
    let px = options.px as usize;
    let mut losses = Vec::new();
    let mut images = |want: Want, out: &mut [u8]| {
        let Want::Step(seed) = want else {
            out.copy_from_slice(&blobs(px, 8, 77));
            return Ok(());
        };
        out.copy_from_slice(&blobs(px, 8, seed));
        Ok(())
    };
    let held_out = blobs(px, 64, 2_000_000);
    let trained =
        train::train(&options, Card::default(), &mut images, &held_out, &mut |p| losses.push(p.loss))
            .unwrap();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[245..]));
    println!("loss {first:.3} to {last:.3}, {:?}", trained.measured);
    assert!(last < first - 0.15, "{first} to {last}");
    assert!(trained.measured.perplexity > 8.0 && trained.measured.psnr_db > 10.0, "{:?}", trained.measured);
}

#[test]
fn options_out_of_range_are_named() {
    alone();
    let run = |options: Options| {
        let mut images = |_, _: &mut [u8]| Ok(());
        let held_out = vec![0; 16 * 16 * 3];
        train::train(&options, Card::default(), &mut images, &held_out, &mut |_| ()).unwrap_err().to_string()
    };
    assert!(run(Options { vocab: 70_000, ..small(0) }).contains("70000 codes; 2 to 65536"));
    assert!(run(Options { px: 18, ..small(0) }).contains("18 px, but 3 groups make tokens of 4 px"));
    assert!(run(Options { lr: f64::NAN, ..small(0) }).contains("finite"));
    assert!(
        run(Options { lr: 1e9, steps: 20, data_init: false, ..small(0) }).contains("lower the learning rate")
    );
}

#[test]
fn pixels_are_mapped_as_the_reference_maps_them() {
    let mapped = map_pixels(&[0, 51, 255], 1, 1, Device::Cpu).unwrap();
    assert_eq!((mapped.size(), mapped.kind()), (vec![1, 3, 1, 1], Kind::Float));
    let values = Vec::<f32>::try_from(mapped.contiguous().view([-1])).unwrap();
    assert_eq!(values, [0.1, 51.0f32 / 255.0 * 0.8 + 0.1, 0.8f32 + 0.1]);
}

/// CPU seconds of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

#[test]
#[ignore = "a measurement: BEIT_TOKENIZER=encoder.pkl cargo test --release -p beit-tokenizer encoder_speed -- --ignored --nocapture"]
fn encoder_speed() {
    alone();
    let tokenizer = Tokenizer::find(None).unwrap();
    let pixels = noise(16 * 112 * 112 * 3, 4);
    let mut tokens = Vec::new();
    for round in 0..3 {
        let (start, cpu) = (std::time::Instant::now(), cpu_seconds());
        tokenizer.encode(&pixels, 16, 112, &mut tokens).unwrap();
        let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
        println!("round {round}: {:.2} images/s, {:.2} images per CPU second", 16.0 / wall, 16.0 / cpu);
    }
}
