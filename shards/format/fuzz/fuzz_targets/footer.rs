//! Any bytes parse as a footer and a trailer that are written again as the same bytes, or are refused.
//!
//! The footer's checks of place need the offset it is said to lie at, so that is read from the footer itself.
#![no_main]

use beit_shards::inner::{footer_again, trailer_again};
use libfuzzer_sys::fuzz_target;

/// The only offset at which a footer with these names can lie.
fn offset(footer: &[u8]) -> Option<u64> {
    let at = |at: usize| Some(u64::from_le_bytes(*footer.get(at..)?.first_chunk()?));
    at(32)?.checked_add(at(40)?)?.checked_next_multiple_of(64)
}

fuzz_target!(|data: &[u8]| {
    if let Some(again) = offset(data).and_then(|offset| footer_again(data, offset)) {
        assert_eq!(again, data);
    }
    let Some((tail, _)) = data.split_first_chunk::<48>() else { return };
    let mut trailer = *tail;
    if let Some(again) = trailer_again(&trailer) {
        assert_eq!(again, trailer);
    }
    // With the checksum and the ending made right, the fields behind them are put to the test as well.
    let check = xxhash_rust::xxh3::xxh3_64(&trailer[..32]);
    trailer[32..40].copy_from_slice(&check.to_le_bytes());
    trailer[40..].copy_from_slice(b"BEITTAIL");
    if let Some(again) = trailer_again(&trailer) {
        assert_eq!(again, trailer);
    }
});
