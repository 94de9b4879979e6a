use super::*;
use crate::random::Purpose;
use proptest::prelude::*;

fn key(stream: u64) -> SeedKey {
    SeedKey { seed: 1, stream, index: 0, purpose: Purpose::View }
}

#[test]
fn a_spec_reads_back_what_it_writes() {
    let line = "view-1 token_px=112 token_interpolation=lanczos crop_scale=0.08..1 \
                crop_ratio=0.75..1.3333333333333333 color_jitter=0.4 flip=0.5";
    assert_eq!(ViewSpec::default().to_string(), line);
    assert_eq!(line.parse(), Ok(ViewSpec::default()));
}

#[test]
fn a_line_that_is_no_spec_is_refused_by_name() {
    let check = |line: &str, words: &str| {
        let message = line.parse::<ViewSpec>().unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let line = ViewSpec::default().to_string();
    check("view-2 token_px=112", "another version");
    check("view-1 token_px=112", "lacks token_interpolation");
    check(&line.replace("lanczos", "sinc"), "interpolation cannot be \"sinc\"");
    check(&line.replace("0.08..1", "0.08..2"), "crop_scale cannot be");
    check(&line.replace("flip=0.5", "flip=NaN"), "flip cannot be");
    check(&format!("{line} more=1"), "end of line");
}

#[test]
fn a_view_is_a_function_of_its_key() {
    let spec = ViewSpec::default();
    let draw = |stream| View::draw(&spec, 500, 375, key(stream));
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn drawn_views_keep_their_shape_over_releases() {
    // Shards store no crops: whoever changes these numbers makes every published shard lie.
    let view = View::draw(&ViewSpec::default(), 500, 375, key(42));
    let order = [JitterStep::Brightness, JitterStep::Contrast, JitterStep::Saturation];
    let jitter = Jitter { brightness: 0.7252213, contrast: 0.62513536, saturation: 0.62515515, order };
    let crop = PixelRect { left: 27, top: 47, width: 221, height: 262 };
    assert_eq!(view, View { jitter, flip: true, crop });
}

#[test]
fn factors_flips_and_orders_are_drawn_evenly() {
    let spec = ViewSpec::default();
    let (mut flips, mut mean, mut orders) = (0, [0.0; 3], std::collections::BTreeMap::new());
    for stream in 0..24_000 {
        let view = View::draw(&spec, 500, 375, key(stream));
        flips += u32::from(view.flip);
        *orders.entry(format!("{:?}", view.jitter.order)).or_insert(0u32) += 1;
        let factors = [view.jitter.brightness, view.jitter.contrast, view.jitter.saturation];
        for (mean, factor) in mean.iter_mut().zip(factors) {
            assert!((0.6..=1.4).contains(&f64::from(factor)), "{factor}");
            *mean += f64::from(factor) / 24_000.0;
        }
    }
    assert!((f64::from(flips) / 24_000.0 - 0.5).abs() < 0.013, "{flips} flips");
    assert!(mean.iter().all(|mean| (mean - 1.0).abs() < 0.006), "{mean:?}");
    assert_eq!(orders.len(), 6);
    assert!(orders.values().all(|&n| (3790..4210).contains(&n)), "{orders:?}");
}

#[test]
fn crops_are_drawn_as_the_reference_draws_them() {
    // Python's generator and the reference's rule gave, over 200,000 crops of 500 x 375, a mean share of the area of 0.4322,
    // a mean width of 281.5, and full height in 0.58 % of them.
    let spec = ViewSpec::default();
    let n = 50_000;
    let (mut share, mut width, mut full) = (0.0, 0.0, 0.0);
    for stream in 0..n {
        let crop = View::draw(&spec, 500, 375, key(stream)).crop;
        share += f64::from(crop.width * crop.height) / (500.0 * 375.0) / n as f64;
        width += f64::from(crop.width) / n as f64;
        full += f64::from(u8::from(crop.height == 375)) / n as f64;
    }
    assert!((share - 0.4322).abs() < 0.005, "mean share {share}");
    assert!((width - 281.5).abs() < 1.5, "mean width {width}");
    assert!((full - 0.0058).abs() < 0.002, "full height {full}");
}

#[test]
fn an_image_too_oblong_for_any_crop_gives_its_middle() {
    let crop = |w, h| central_crop((0.75, 4.0 / 3.0), w, h);
    assert_eq!(crop(10, 100), PixelRect { left: 0, top: 43, width: 10, height: 13 });
    assert_eq!(crop(100, 10), PixelRect { left: 43, top: 0, width: 13, height: 10 });
    assert_eq!(crop(100, 100), PixelRect { left: 0, top: 0, width: 100, height: 100 });
    assert_eq!(crop(1, 1000), PixelRect { left: 0, top: 499, width: 1, height: 1 });
}

#[test]
fn no_jitter_and_no_flip_are_drawn_when_none_are_asked_for() {
    let spec = ViewSpec { color_jitter: 0.0, flip: 0.0, ..ViewSpec::default() };
    for stream in 0..100 {
        let view = View::draw(&spec, 64, 64, key(stream));
        let Jitter { brightness, contrast, saturation, .. } = view.jitter;
        assert_eq!((brightness, contrast, saturation, view.flip), (1.0, 1.0, 1.0, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_crop_lies_within_its_image(width in 1u32..3000, height in 1u32..3000, stream: u64) {
        let view = View::draw(&ViewSpec::default(), width, height, key(stream));
        prop_assert!(view.crop.fits(width, height), "{view:?}");
        prop_assert!(view.source_rect(width).fits(width, height));
        let twice = View { crop: view.source_rect(width), ..view };
        prop_assert_eq!(twice.source_rect(width), view.crop);
    }
}
