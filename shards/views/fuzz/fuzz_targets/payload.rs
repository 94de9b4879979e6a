#![no_main]

use beit_views::{Interpolation, Payload, PayloadKind, Purpose, Renderer, SeedKey, StageTimes, View, ViewSpec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, u8, &[u8])| {
    let (width, height, stream, bytes) = input;
    let (width, height) = (u32::from(width) + 1, u32::from(height) + 1);
    let key = SeedKey { seed: 0, stream: u64::from(stream), index: 0, purpose: Purpose::View };
    let view = View::draw(&ViewSpec::default(), width, height, key);
    let payload = Payload { kind: PayloadKind::Jpeg, width, height, bytes };
    let (mut out, mut times) = (vec![0; 16 * 16 * 3], StageTimes::default());
    let _ = Renderer::new().render_payload(payload, &view, 0, 16, Interpolation::Bicubic, &mut out, &mut times);
});
