use super::*;

fn grey(width: u32, height: u32) -> RgbImage {
    RgbImage { width, height, pixels: vec![99; width as usize * height as usize * 3] }
}

#[test]
fn the_short_side_is_met_and_the_long_one_cut() {
    let sides = |width, height, side| {
        let small = shrink_to_short_side(&grey(width, height), side);
        assert!(small.pixels.iter().all(|&value| value == 99), "flat images stay flat");
        assert_eq!(small.pixels.len(), small.width as usize * small.height as usize * 3);
        (small.width, small.height)
    };
    assert_eq!(sides(500, 375, 256), (341, 256));
    assert_eq!(sides(375, 500, 256), (256, 341));
    assert_eq!(sides(300, 300, 7), (7, 7));
    assert_eq!(sides(256, 900, 256), (256, 900), "no longer than asked for: as it is");
    assert_eq!(sides(20, 900, 256), (20, 900));
}

#[test]
fn what_no_jpeg_can_hold_is_refused() {
    let image = RgbImage { width: 0, height: 3, pixels: vec![] };
    assert_eq!(encode_jpeg(&image, 90).unwrap_err().reason(), "too_small");
    let image = RgbImage { width: 2, height: 2, pixels: vec![0; 11] };
    assert_eq!(encode_jpeg(&image, 90).unwrap_err().reason(), "corrupt");
    let error = encode_jpeg(&grey(70_000, 1), 90).unwrap_err();
    assert!(error.to_string().contains("70000x1 pixels, a JPEG has at most 65500 a side"), "{error}");
}

#[test]
fn a_higher_quality_takes_more_bytes() {
    let pixels = (0..64 * 64 * 3u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let image = RgbImage { width: 64, height: 64, pixels };
    let len = |quality| encode_jpeg(&image, quality).unwrap().len();
    assert!(len(50) < len(90) && len(90) < len(100));
}
