//! Any bytes unpack to tokens that pack to the same bytes, or are refused.
#![no_main]

use beit_shards::inner::{pack_tokens, packed_len, unpack_tokens};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [bits, count, packed @ ..] = data else { return };
    let (bits, count) = (u32::from(*bits) % 20, usize::from(*count));
    let mut tokens = vec![0; count];
    if unpack_tokens(packed, bits, &mut tokens).is_some() {
        let mut again = Vec::new();
        pack_tokens(&tokens, bits, &mut again);
        assert_eq!(again, packed[..packed_len(count, bits)]);
    }
});
