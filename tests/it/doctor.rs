//! `beit-daemon doctor` on real runs that are short of different things.

use crate::house::{command, fail, last_json, succeed};
use std::path::{Path, PathBuf};

/// Packs pictures of a size, one view each.
fn pack(home: &Path, name: &str, pictures: u32, (width, height): (u32, u32)) -> PathBuf {
    let (source, out) = (home.join(name), home.join(format!("{name}.shards")));
    std::fs::create_dir(&source).unwrap();
    for picture in 0..pictures {
        let pixel =
            |x: u32, y: u32| image::Rgb([(x / 9 + picture) as u8, (y / 7) as u8, ((x ^ y) / 31) as u8]);
        let picture_of = image::RgbImage::from_fn(width, height, pixel);
        picture_of.save(source.join(format!("{picture}.png"))).unwrap();
    }
    let (source, out_text) = (source.to_str().unwrap(), out.to_str().unwrap());
    succeed("beit-shard", &["build", source, "--out", out_text, "--tokenizer", "embedded", "--views", "1"]);
    out
}

/// Asks the doctor about a tiny recipe, changed; its scratch folder is `home`'s `tmp`.
fn doctor(home: &Path, shards: &Path, changes: &[&str], json: bool) -> String {
    let tmp = home.join("tmp");
    std::fs::create_dir_all(&tmp).unwrap();
    let mut args = vec!["doctor", "--shards", shards.to_str().unwrap(), "--recipe", "pretrain-tiny-cpu"];
    args.extend(["--threads", "1", "--seconds", "1", "--steps", "3"]);
    for change in ["threads_per_rank=1", "num_mask_patches=16"].iter().chain(changes) {
        args.extend(["--set", change]);
    }
    args.extend(json.then_some("--json"));
    let output = command("beit-daemon", &args).env("TMPDIR", &tmp).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("3 of 3"), "a long measurement tells what it does:\n{said}");
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "what was measured is thrown away");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_that_waits_for_data_and_one_that_does_not_get_different_verdicts() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    // Every view is cut from six million pixels, for a model that is next to nothing.
    let photographs = pack(home, "photographs", 4, (3000, 2000));
    let tiny = ["embed_dim=32", "depth=1", "num_heads=1", "batch_size=2"];
    let report = last_json(&doctor(home, &photographs, &tiny, true));
    let number = |place: &str| report.pointer(place).and_then(serde_json::Value::as_f64);
    assert_eq!(report["verdict"]["limit"], "loader", "{report:#}");
    assert!(number("/together/data_wait_ratio") > Some(0.1), "{report:#}");
    assert!(number("/loader/images_per_s") < number("/step/samples_per_s"), "{report:#}");
    assert!(number("/verdict/gain_ratio") > Some(1.0), "{report:#}");
    assert!(
        number("/together/samples_per_s") > Some(0.0) && number("/together/steps") >= Some(3.0),
        "{report:#}"
    );
    assert_eq!(report["verdict"]["bound_samples_per_s"], report["step"]["samples_per_s"]);
    assert!(report["orders"]["shuffle"].is_object());
    let advice = report["verdict"]["advice"].as_array().unwrap();
    assert!(advice.iter().all(|advice| advice["change"].is_string() && advice["why"].is_string()));
    assert!(!advice.is_empty(), "{report:#}");

    // Stamps, for a model of seven million parameters.
    let stamps = pack(home, "stamps", 12, (64, 64));
    let larger = ["embed_dim=384", "depth=4", "num_heads=6", "batch_size=4"];
    let text = doctor(home, &stamps, &larger, false);
    for words in
        ["loader alone: ", "step alone: ", "both together: ", "what limits it: the step", "what to change:"]
    {
        assert!(text.contains(words), "{words:?} is missing from\n{text}");
    }
}

#[test]
fn what_cannot_be_measured_says_why() {
    let home = tempfile::tempdir().unwrap();
    let stamps = pack(home.path(), "stamps", 2, (64, 64));
    let doctor = ["doctor", "--shards", stamps.to_str().unwrap(), "--recipe", "pretrain-tiny-cpu"];
    fail("beit-daemon", &[&doctor[..], &["--seconds", "0"]].concat(), &["--seconds 0"]);
    fail("beit-daemon", &[&doctor[..], &["--set", "input_size=32"]].concat(), &["tokens"]);
    fail("beit-daemon", &[&doctor[..], &["--batch", "x"]].concat(), &["--step-only"]);
    fail("beit-daemon", &[&doctor[..], &["--set", "tokens=online"]].concat(), &["--set tokens=shard"]);
    fail("beit-daemon", &["doctor", "--shards", "nowhere", "--recipe", "pretrain-tiny-cpu"], &["nowhere"]);
}
