#![no_main]

use beit_views::{
    Interpolation, Limits, Payload, Purpose, Renderer, SeedKey, StageTimes, View, ViewSpec, decode, pack_payload,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = decode(bytes, &Limits { max_pixels: 1 << 18, ..Limits::default() }) else { return };
    let (kind, packed) = pack_payload(bytes, &image).expect("what decodes can be packed");
    let payload = Payload { kind, width: image.width, height: image.height, bytes: &packed };
    let key = SeedKey { seed: 0, stream: bytes.len() as u64, index: 0, purpose: Purpose::View };
    let view = View::draw(&ViewSpec::default(), image.width, image.height, key);
    let (mut one, mut other) = (vec![0; 16 * 16 * 3], vec![1; 16 * 16 * 3]);
    let mut renderer = Renderer::new();
    renderer.render_image(&image, &view, 99, 16, Interpolation::Bicubic, &mut one);
    let mut times = StageTimes::default();
    renderer
        .render_payload(payload, &view, 99, 16, Interpolation::Bicubic, &mut other, &mut times)
        .expect("what was packed renders");
    assert_eq!(one, other);
});
