//! TensorBoard event files: a record per step, in the few protocol-buffer fields that scalars need.
//!
//! ```text
//! file:    record*                     record: length u64 · crc of the length u32 · event · crc of the event u32
//! event:   1 wall_time double · 2 step varint · one of 3 file_version, 5 summary, 7 session_log
//! summary: 1 value*                    value:  1 tag · 2 simple_value float
//! ```
//! Numbers are little-endian; both checksums are CRC-32C, rotated and shifted ("masked").

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{TrainError, io};

/// An event file that is written.
#[derive(Debug)]
pub(crate) struct Events {
    file: File,
    path: PathBuf,
    /// Whether a loss was told already.
    lost: bool,
}

impl Events {
    /// Begins a new file in `folder`. A reader forgets what earlier files say of `first_step` and later ones, as they are done again.
    ///
    /// # Errors
    /// The folder or the file can't be made.
    pub(crate) fn create(folder: &Path, first_step: u64) -> Result<Events, TrainError> {
        fs::create_dir_all(folder).map_err(io("creating", folder))?;
        let host = rustix::system::uname().nodename().to_string_lossy().replace(['/', '.'], "-");
        let stem = format!("events.out.tfevents.{:010}.{host}.{}", now() as u64, std::process::id());
        // Another run of this process may have begun one within the same second.
        let (path, file) = (0..)
            .map(|serial| folder.join(format!("{stem}.{serial}")))
            .map(|path| (File::create_new(&path), path))
            .find_map(|(made, path)| match made {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
                made => Some((path, made)),
            })
            .map_or_else(|| unreachable!("there is a next number"), |(path, made)| (path, made));
        let mut file = file.map_err(io("creating", &path))?;
        let begin = |file: &mut File| {
            file.write_all(&record(&event(0, 3, b"brain.Event:2")))?;
            if first_step > 0 {
                file.write_all(&record(&event(first_step, 7, &[0x08, 1])))?; // status: START
            }
            Ok(())
        };
        begin(&mut file).map_err(io("writing", &path))?;
        Ok(Events { file, path, lost: false })
    }

    /// Appends the scalars of one step, counted from 0; a full disk costs the record, not the run.
    pub(crate) fn scalars<'a>(&mut self, step: u64, scalars: impl IntoIterator<Item = (&'a str, f64)>) {
        let mut summary = Vec::new();
        for (tag, number) in scalars {
            let mut value = Vec::new();
            field(&mut value, 1, tag.as_bytes());
            value.push(2 << 3 | 5);
            value.extend_from_slice(&(number as f32).to_le_bytes());
            field(&mut summary, 1, &value);
        }
        let written = self.file.write_all(&record(&event(step, 5, &summary)));
        if let Err(error) = written
            && !std::mem::replace(&mut self.lost, true)
        {
            tracing::warn!(path = %self.path.display(), %error, "TensorBoard's records are being lost.");
        }
    }
}

/// An event, now, with one field of bytes.
fn event(step: u64, number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend_from_slice(&now().to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    field(&mut event, number, bytes);
    event
}

fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), event, &masked(event).to_le_bytes()].concat()
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A scalar of an event file: step, tag, value. A session's start is one with the tag `START`.
    pub(crate) type Scalar = (u64, String, f32);

    /// Reads an event file, checking every length and checksum on the way.
    pub(crate) fn read(path: &Path) -> Vec<Scalar> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut scalars = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes(), "checksum of a length");
            let event = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(event).to_le_bytes(), "checksum of an event");
            rest = &rest[16 + length..];
            let fields = fields(event);
            let step = fields.iter().find(|(number, _)| *number == 2).unwrap().1.number();
            for (number, value) in &fields {
                match number {
                    1 => assert!(f64::from_bits(value.number()) > 1.7e9),
                    2 => {}
                    3 => assert_eq!(value.bytes(), b"brain.Event:2"),
                    5 => scalars.extend(self::fields(value.bytes()).iter().map(|(_, value)| {
                        let parts = self::fields(value.bytes());
                        let tag = String::from_utf8(parts[0].1.bytes().to_vec()).unwrap();
                        (step, tag, f32::from_bits(parts[1].1.number() as u32))
                    })),
                    7 => scalars.push((step, "START".to_owned(), f32::NAN)),
                    other => panic!("field {other}"),
                }
            }
        }
        scalars
    }

    enum Value<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    impl<'a> Value<'a> {
        fn number(&self) -> u64 {
            match self {
                Value::Number(number) => *number,
                Value::Bytes(bytes) => panic!("{bytes:?} is no number"),
            }
        }

        fn bytes(&self) -> &'a [u8] {
            match self {
                Value::Bytes(bytes) => bytes,
                Value::Number(number) => panic!("{number} is no text"),
            }
        }
    }

    fn fields(mut rest: &[u8]) -> Vec<(u64, Value<'_>)> {
        fn varint(rest: &mut &[u8]) -> u64 {
            let mut number = 0;
            for at in 0.. {
                let byte = rest[0];
                *rest = &rest[1..];
                number |= u64::from(byte & 0x7f) << (7 * at);
                if byte < 0x80 {
                    break;
                }
            }
            number
        }
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let mut take = |count: usize| {
                let (taken, left) = rest.split_at(count);
                rest = left;
                taken
            };
            let value = match key & 7 {
                1 => Value::Number(u64::from_le_bytes(take(8).try_into().unwrap())),
                5 => Value::Number(u32::from_le_bytes(take(4).try_into().unwrap()).into()),
                0 => Value::Number(varint(&mut rest)),
                2 => {
                    let length = varint(&mut rest) as usize;
                    let (taken, left) = rest.split_at(length);
                    rest = left;
                    Value::Bytes(taken)
                }
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, value));
        }
        fields
    }

    #[test]
    fn checksums_are_tensorflows() {
        // The masked CRC-32C of RFC 3720's 32 zero bytes, 0x8a9136aa unmasked.
        let unmasked = crc32c::crc32c(&[0; 32]);
        assert_eq!(unmasked, 0x8a91_36aa);
        assert_eq!(masked(&[0; 32]), unmasked.rotate_left(17).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn scalars_come_back_with_their_steps_and_tags() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("tb/run");
        let mut events = Events::create(&inside, 300).unwrap();
        events.scalars(300, [("loss/loss", 8.5), ("opt/lr", 1e-4)]);
        events.scalars(70_000, [("loss/loss", f64::NAN)]);
        let other = Events::create(&inside, 0).unwrap();
        assert_ne!(events.path, other.path);
        let name = events.path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("events.out.tfevents.1") && name.ends_with(".0"), "{name}");
        assert_eq!(read(&other.path), []);
        let read = read(&events.path);
        assert_eq!((read[0].0, read[0].1.as_str()), (300, "START"));
        assert_eq!(read[1..3], [(300, "loss/loss".into(), 8.5), (300, "opt/lr".into(), 1e-4)]);
        assert_eq!((read[3].0, read[3].1.as_str()), (70_000, "loss/loss"));
        assert!(read[3].2.is_nan() && read.len() == 4);
    }
}
