//! Makes checksums right again after bytes were changed, so that what lies behind them is put to the test.
//! Shared with the fuzz targets; written from `FORMAT.md`, not from the code.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn put(bytes: &mut [u8], at: usize, value: u64) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value.to_le_bytes();
    Some(())
}

/// Where footer, index and the number of records are, if the trailer and the footer can be followed.
fn places(bytes: &[u8]) -> Option<(usize, usize, usize, u64)> {
    let trailer = bytes.len().checked_sub(48)?;
    let footer = usize::try_from(u64_at(bytes, trailer)?).ok()?;
    let index = usize::try_from(u64_at(bytes, footer.checked_add(24)?)?).ok()?;
    Some((trailer, footer, index, u64_at(bytes, footer.checked_add(8)?)?))
}

/// Makes trailer, footer, names, index entries and record headers as sound as they can be made.
pub fn resum(bytes: &mut [u8]) -> Option<()> {
    let (trailer, footer, index, samples) = places(bytes)?;
    for number in 0..samples.min(64) {
        let entry = index.checked_add(number as usize * 32)?;
        let Some(record) = u64_at(bytes, entry).and_then(|offset| usize::try_from(offset).ok()) else {
            break;
        };
        resum_header(bytes, record);
        let Some(summed) = bytes.get(entry..).and_then(|bytes| bytes.get(..24)) else { break };
        let check = xxh3_64_with_seed(summed, number);
        put(bytes, entry + 24, check)?;
    }
    resum_names(bytes, footer);
    let check = xxh3_64(bytes.get(footer..trailer)?);
    put(bytes, trailer + 16, check)?;
    let check = xxh3_64(&bytes[trailer..trailer + 32]);
    put(bytes, trailer + 32, check)
}

fn resum_header(bytes: &mut [u8], record: usize) -> Option<()> {
    let len = u32::from_le_bytes(*bytes.get(record.checked_add(4)?..)?.first_chunk()?) as usize;
    let summed = record.checked_add(len)?.checked_sub(8)?;
    let check = xxh3_64(bytes.get(record..summed)?);
    put(bytes, summed, check)
}

fn resum_names(bytes: &mut [u8], footer: usize) -> Option<()> {
    let start = usize::try_from(u64_at(bytes, footer.checked_add(32)?)?).ok()?;
    let len = usize::try_from(u64_at(bytes, footer.checked_add(40)?)?).ok()?;
    let check = xxh3_64(bytes.get(start..start.checked_add(len)?)?);
    put(bytes, footer.checked_add(48)?, check)
}
