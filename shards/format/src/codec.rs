//! Codecs: tokens as a bit string, RGB payloads through zstd. The one place that knows zstd.

/// zstd level of RGB payloads; part of what makes builds reproducible.
const ZSTD_LEVEL: i32 = 3;
/// Largest payload a reader unpacks, in bytes.
pub(crate) const MAX_PLAIN: u64 = 1 << 30;
/// Readable bytes that [`unpack_tokens`] wants behind the packed tokens, so that it can load 8 bytes at a time.
pub(crate) const SLACK: usize = 8;

/// Bits that hold any token below `vocab`; at least 1.
#[must_use]
pub fn token_bits(vocab: u32) -> u32 {
    (u32::BITS - vocab.saturating_sub(1).leading_zeros()).max(1)
}

/// Bytes of `count` packed tokens.
#[must_use]
pub fn packed_len(count: usize, bits: u32) -> usize {
    (count * bits as usize).div_ceil(8)
}

/// Appends `tokens` as a bit string, lowest bit first: token i lies in bits i·`bits` to (i+1)·`bits`-1 of the string,
/// whose bit j is bit j%8 of byte j/8. Bits left over in the last byte are zero.
pub fn pack_tokens(tokens: &[u16], bits: u32, out: &mut Vec<u8>) {
    let (mut held, mut count) = (0_u64, 0);
    for &token in tokens {
        held |= u64::from(token) << count;
        count += bits;
        while count >= 8 {
            out.push(held as u8);
            held >>= 8;
            count -= 8;
        }
    }
    if count > 0 {
        out.push(held as u8);
    }
}

/// Unpacks `out.len()` tokens of `bits` bits; `None` when `packed` is shorter than they and 8 bytes behind them, whose
/// content does not matter, or when left-over bits of their last byte are set.
#[must_use]
pub fn unpack_tokens(packed: &[u8], bits: u32, out: &mut [u16]) -> Option<()> {
    let len = packed_len(out.len(), bits);
    if packed.len() < len.checked_add(SLACK)? {
        return None;
    }
    match bits {
        8 => unpack::<8>(packed, out),
        9 => unpack::<9>(packed, out),
        10 => unpack::<10>(packed, out),
        11 => unpack::<11>(packed, out),
        12 => unpack::<12>(packed, out),
        13 => unpack::<13>(packed, out),
        14 => unpack::<14>(packed, out),
        1..=16 => unpack_tail(packed, bits, out),
        _ => return None,
    }
    let left_over = len * 8 - out.len() * bits as usize;
    (left_over == 0 || packed[len - 1] >> (8 - left_over) == 0).then_some(())
}

/// Eight tokens are `BITS` whole bytes: two loads, eight shifts by constants.
fn unpack<const BITS: usize>(packed: &[u8], out: &mut [u16]) {
    let mask = (1_u64 << BITS) - 1;
    let groups = out.len() / 8;
    for (group, tokens) in out.chunks_exact_mut(8).enumerate() {
        let start = group * BITS;
        let low = load(packed, start);
        let high = load(packed, start + BITS / 2) >> (4 * BITS % 8);
        for (i, token) in tokens.iter_mut().enumerate() {
            let half = if i < 4 { low } else { high };
            *token = ((half >> (i % 4 * BITS)) & mask) as u16;
        }
    }
    unpack_tail(&packed[groups * BITS..], BITS as u32, &mut out[groups * 8..]);
}

fn unpack_tail(packed: &[u8], bits: u32, out: &mut [u16]) {
    let mask = (1_u64 << bits) - 1;
    for (i, token) in out.iter_mut().enumerate() {
        let bit = i * bits as usize;
        *token = ((load(packed, bit / 8) >> (bit % 8)) & mask) as u16;
    }
}

fn load(packed: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&packed[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Packs payloads; holds the compressor between records.
#[derive(Default)]
pub(crate) struct Packer {
    compressor: Option<zstd::bulk::Compressor<'static>>,
}

impl Packer {
    /// The compressed payload, or `None` when that does not save at least a 32nd.
    pub fn compress(&mut self, plain: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        if self.compressor.is_none() {
            self.compressor = Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?);
        }
        let Some(compressor) = &mut self.compressor else { return Ok(None) };
        let packed = compressor.compress(plain)?;
        Ok((packed.len() <= plain.len() - plain.len() / 32 && packed.len() < plain.len()).then_some(packed))
    }
}

/// Unpacks payloads; holds the decompressor between reads.
#[derive(Default)]
pub(crate) struct Unpacker {
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl Unpacker {
    /// Unpacks to exactly `len` bytes at the start of `out`, which only ever grows; says why it cannot.
    ///
    /// The frame must itself say that it has as many, so a small record cannot ask for much memory by its header alone.
    pub fn unpack<'o>(
        &mut self,
        packed: &[u8],
        len: u64,
        out: &'o mut Vec<u8>,
    ) -> Result<&'o mut [u8], &'static str> {
        const WRONG: &str = "the payload does not unpack to its length";
        let says = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
        if says != Some(len) || len > MAX_PLAIN {
            return Err(WRONG);
        }
        let len = usize::try_from(len).map_err(|_| WRONG)?;
        if out.len() < len {
            out.resize(len, 0);
        }
        let out = &mut out[..len];
        self.decompress(packed, out)?;
        Ok(out)
    }

    /// Fills all of `out`; says why it cannot.
    fn decompress(&mut self, packed: &[u8], out: &mut [u8]) -> Result<(), &'static str> {
        const BROKEN: &str = "the payload does not unpack to its length";
        if self.decompressor.is_none() {
            self.decompressor = Some(zstd::bulk::Decompressor::new().map_err(|_| "no memory for zstd")?);
        }
        let decompressor = self.decompressor.as_mut().ok_or(BROKEN)?;
        let count = decompressor.decompress_to_buffer(packed, out).map_err(|_| BROKEN)?;
        if count == out.len() { Ok(()) } else { Err(BROKEN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packed(tokens: &[u16], bits: u32) -> Vec<u8> {
        let mut out = Vec::new();
        pack_tokens(tokens, bits, &mut out);
        out
    }

    /// Unpacks with slack that is not zero.
    fn unpacked(mut packed: Vec<u8>, bits: u32, count: usize) -> Option<Vec<u16>> {
        packed.extend([0xff; SLACK]);
        let mut tokens = vec![0; count];
        unpack_tokens(&packed, bits, &mut tokens).map(|()| tokens)
    }

    proptest! {
        #[test]
        fn unpack_undoes_pack(bits in 1..=16_u32, raw in proptest::collection::vec(any::<u16>(), 0..450)) {
            let tokens: Vec<u16> = raw.iter().map(|token| token >> (16 - bits)).collect();
            let bytes = packed(&tokens, bits);
            prop_assert_eq!(bytes.len(), packed_len(tokens.len(), bits));
            prop_assert_eq!(unpacked(bytes, bits, tokens.len()), Some(tokens));
        }

        #[test]
        fn pack_undoes_unpack(bits in 0..20_u32, count in 0..50_usize, bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Some(tokens) = unpacked(bytes.clone(), bits, count) {
                prop_assert_eq!(packed(&tokens, bits), &bytes[..packed_len(count, bits)]);
            }
        }

        #[test]
        fn decompress_undoes_compress(runs in proptest::collection::vec((any::<u8>(), 1..200_usize), 0..20)) {
            let plain: Vec<u8> = runs.iter().flat_map(|&(byte, count)| std::iter::repeat_n(byte, count)).collect();
            if let Some(packed) = Packer::default().compress(&plain).unwrap() {
                prop_assert!(packed.len() < plain.len());
                let mut unpacker = Unpacker::default();
                let mut out = vec![0; plain.len()];
                prop_assert_eq!(unpacker.decompress(&packed, &mut out), Ok(()));
                prop_assert_eq!(&out, &plain);
                prop_assert!(unpacker.decompress(&packed, &mut out[1..]).is_err());
                out.push(0);
                prop_assert!(unpacker.decompress(&packed, &mut out).is_err());
            }
        }
    }

    #[test]
    fn the_bits_of_a_vocabulary_hold_its_largest_token() {
        for (vocab, bits) in [(0, 1), (1, 1), (2, 1), (3, 2), (512, 9), (513, 10), (8192, 13), (65_536, 16)] {
            assert_eq!(token_bits(vocab), bits, "{vocab}");
        }
    }

    #[test]
    fn the_bit_string_is_the_one_of_the_format_page() {
        assert_eq!(packed(&[0b1, 0b101, 0b111], 3), [0b1110_1001, 0b1]);
        assert_eq!(packed(&[0x1fff, 0, 1], 13), [0xff, 0x1f, 0, 0x04, 0]);
    }

    #[test]
    fn bytes_that_cannot_be_tokens_are_refused() {
        let mut tokens = [0; 3];
        assert_eq!(unpack_tokens(&[0; 12], 13, &mut tokens), None, "too short");
        assert_eq!(unpack_tokens(&[0; 13], 13, &mut tokens), Some(()));
        assert_eq!(unpack_tokens(&[0xff; 13], 13, &mut tokens), None, "left-over bits are set");
        assert_eq!(unpack_tokens(&[0; 100], 0, &mut tokens), None);
        assert_eq!(unpack_tokens(&[0; 100], 17, &mut tokens), None);
    }
}
