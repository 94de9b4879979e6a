//! Fetch: the encoded bytes of one entry, bounded, and out of the gzip that some of ImageNet-22k's JPEGs are wrapped in.

use crate::source::Place;
use beit_views::Limits;
use flate2::bufread::GzDecoder;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Why an entry cannot be a sample.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A word of a small closed set.
    pub reason: &'static str,
    /// What was found.
    pub detail: String,
}

/// All bytes of an entry, at most as many as `limits` allow.
pub fn fetch(place: &mut Place, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let bytes = match place {
        Place::File(file) => read_file(file, limits)?,
        Place::Stretch(stretch) => {
            check_length(stretch.bytes, limits)?;
            stretch.read().map_err(unreadable)?
        }
        Place::Bytes(bytes) => std::mem::take(bytes),
        Place::Skipped => {
            return Err(Refusal { reason: "unreadable", detail: "it was skipped; this is a bug".to_owned() });
        }
    };
    check_length(bytes.len() as u64, limits)?;
    match bytes.starts_with(&[0x1f, 0x8b]) {
        true => unpack(&bytes, limits),
        false => Ok(bytes),
    }
}

fn read_file(path: &Path, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Refusal { reason: "unreadable", detail: "it is not a regular file".to_owned() });
    }
    check_length(metadata.len(), limits)?;
    let mut bytes = Vec::with_capacity(metadata.len() as usize + 1);
    File::open(path)
        .and_then(|file| file.take(limits.max_bytes + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    Ok(bytes)
}

fn check_length(bytes: u64, limits: &Limits) -> Result<(), Refusal> {
    if bytes <= limits.max_bytes {
        return Ok(());
    }
    let detail = format!("{bytes} bytes, at most {} are read", limits.max_bytes);
    Err(Refusal { reason: "too_large", detail })
}

fn unreadable(error: io::Error) -> Refusal {
    Refusal { reason: "unreadable", detail: error.to_string() }
}

/// The first member of a gzip file; what follows it is ignored, as gunzip does with rubbish.
fn unpack(packed: &[u8], limits: &Limits) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    match GzDecoder::new(packed).take(limits.max_bytes + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 > limits.max_bytes => {
            let detail = format!("gzip of more than {} bytes", limits.max_bytes);
            Err(Refusal { reason: "too_large", detail })
        }
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(Refusal {
            reason: "truncated",
            detail: "its gzip wrapping ends early; copy the file again".to_owned(),
        }),
        Err(error) => Err(Refusal { reason: "corrupt", detail: format!("its gzip wrapping: {error}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn fetched(bytes: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        fetch(&mut Place::Bytes(bytes), &Limits { max_bytes: 1 << 20, ..Limits::default() })
    }

    #[test]
    fn gzip_is_unwrapped_and_its_damage_named() {
        let packed = gzip(b"an image, perhaps");
        assert_eq!(fetched(packed.clone()).unwrap(), b"an image, perhaps");
        assert_eq!(fetched([&packed[..], b"rubbish"].concat()).unwrap(), b"an image, perhaps");
        assert_eq!(fetched(packed[..packed.len() - 3].to_vec()).unwrap_err().reason, "truncated");
        let mut flipped = packed;
        let at = flipped.len() - 6; // in the checksum
        flipped[at] ^= 1;
        assert_eq!(fetched(flipped).unwrap_err().reason, "corrupt");
    }

    #[test]
    fn a_gzip_bomb_is_refused_at_the_limit() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 17);
        assert_eq!(fetched(bomb).unwrap_err().reason, "too_large");
    }

    #[test]
    fn files_that_never_end_are_not_read() {
        let limits = Limits::default();
        let refusal = fetch(&mut Place::File("/dev/zero".into()), &limits).unwrap_err();
        assert_eq!(refusal.detail, "it is not a regular file");
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap(); // sparse: a terabyte that takes no room
        assert_eq!(fetch(&mut Place::File(file.path().into()), &limits).unwrap_err().reason, "too_large");
    }
}
