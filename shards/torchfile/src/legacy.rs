use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::pickle::{Graph, Machine, Node};
use crate::tensor::Storage;
use crate::value::Value;
use crate::{Error, Limits, Result};

/// `0x1950a86a20f9469cfc6c`, as `LONG1` writes it.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Reads the older container: the pickles magic, protocol, system, object and storage keys one after another, then
/// per key the number of elements (u64) and the elements.
pub(crate) fn read(path: &Path, bytes: &Arc<Vec<u8>>, limits: &Limits) -> Result<Value> {
    let run = |start| Machine::run(path, limits, bytes, start);
    let (magic, at) = run(0)?;
    if !matches!(magic.root(), Node::Big(digits) if bytes[digits.clone()] == MAGIC) {
        let looks_like = "it is a plain pickle; load it in Python and save it with torch.save".to_owned();
        return Err(Error::NotTorch { path: path.to_owned(), looks_like });
    }
    let (protocol, at) = run(at)?;
    if !matches!(protocol.root(), Node::Int(PROTOCOL)) {
        return Err(damaged(path, "its protocol is not 1001"));
    }
    let (system, at) = run(at)?;
    check_system(path, bytes, &system)?;
    let (object, at) = run(at)?;
    let (keys, at) = run(at)?;
    let places = storages(path, bytes, &object, &keys, at)?;
    let whole = Storage::new(bytes.clone());
    let storages: Option<Vec<Storage>> = places.into_iter().map(|place| whole.slice(place)).collect();
    let storages = storages.ok_or_else(|| damaged(path, "a storage outside of the file"))?;
    object.resolve(path, limits, bytes, &storages)
}

fn damaged(path: &Path, what: impl Into<String>) -> Error {
    Error::Container { path: path.to_owned(), container: "torch file of the older form", what: what.into() }
}

fn check_system(path: &Path, bytes: &[u8], system: &Graph) -> Result<()> {
    let Node::Dict(dict) = system.root() else {
        return Err(damaged(path, "it does not say which machine wrote it"));
    };
    let flag = dict.entries.iter().find_map(|&(key, value)| match (system.node(key), system.node(value)) {
        (Node::Str(name), Node::Bool(flag)) if bytes[name.clone()] == *b"little_endian" => Some(*flag),
        _ => None,
    });
    match flag {
        Some(true) => Ok(()),
        Some(false) => Err(Error::BigEndian { path: path.to_owned() }),
        None => Err(damaged(path, "it does not say its byte order")),
    }
}

/// Where each storage of `object` lies, found by walking the list of keys.
fn storages(
    path: &Path,
    bytes: &[u8],
    object: &Graph,
    keys: &Graph,
    mut at: usize,
) -> Result<Vec<Range<usize>>> {
    let (Node::List(ids) | Node::Tuple(ids)) = keys.root() else {
        return Err(damaged(path, "it has no list of storages"));
    };
    let mut places = vec![None; object.storages.len()];
    let index: std::collections::HashMap<&[u8], usize> =
        object.storages.iter().enumerate().map(|(i, entry)| (entry.key.as_bytes(), i)).collect();
    for &id in ids {
        let number;
        let key = match keys.node(id) {
            Node::Str(range) => &bytes[range.clone()],
            Node::Int(key) => {
                number = key.to_string();
                number.as_bytes()
            }
            _ => return Err(damaged(path, "a storage key that is no text")),
        };
        let fail = |what: String| Error::Storage {
            path: path.to_owned(),
            key: String::from_utf8_lossy(key).into_owned(),
            what,
        };
        let i = *index.get(key).ok_or_else(|| fail("no tensor uses it, so its type is unknown".into()))?;
        let entry = &object.storages[i];
        let (len, rest) = bytes[at..]
            .split_first_chunk::<8>()
            .map(|(len, rest)| (u64::from_le_bytes(*len), rest.len()))
            .ok_or_else(|| fail("the file ends before it".into()))?;
        if len != entry.len {
            return Err(fail(format!("{} elements are described, {len} are stored", entry.len)));
        }
        let size = usize::try_from(len)
            .ok()
            .and_then(|len| len.checked_mul(entry.dtype.size()))
            .filter(|&size| size <= rest)
            .ok_or_else(|| fail(format!("{len} elements of {} reach past the end", entry.dtype)))?;
        at += 8;
        if places[i].replace(at..at + size).is_some() {
            return Err(fail("it is stored twice".into()));
        }
        at += size;
    }
    places
        .into_iter()
        .zip(&object.storages)
        .map(|(place, entry)| {
            let what = "it is not in the file".to_owned();
            place.ok_or_else(|| Error::Storage { path: path.to_owned(), key: entry.key.clone(), what })
        })
        .collect()
}
