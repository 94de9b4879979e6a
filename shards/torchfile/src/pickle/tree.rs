use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::node::{Graph, Id, Node, StorageNode, TensorNode};
use crate::tensor::{LayoutError, Storage, Tensor};
use crate::value::{Dict, Global, Object, Value};
use crate::{Error, Limits, Result};

impl Graph {
    /// The tree that the program described, its tensors looking into `storages` (one per entry of `self.storages`).
    ///
    /// # Errors
    /// [`Error::Tensor`] for tensors outside of their storage, [`Error::Pickle`] for values that contain themselves,
    /// [`Error::TooLarge`] for trees deeper than `limits.max_depth`
    pub fn resolve(
        &self,
        path: &Path,
        limits: &Limits,
        program: &[u8],
        storages: &[Storage],
    ) -> Result<Value> {
        let done = vec![Progress::New; self.nodes.len()];
        Resolver { graph: self, path, limits, program, storages, done }.value(self.root, 0)
    }
}

#[derive(Clone)]
enum Progress {
    New,
    Started,
    Done(Value),
}

struct Resolver<'a> {
    graph: &'a Graph,
    path: &'a Path,
    limits: &'a Limits,
    program: &'a [u8],
    storages: &'a [Storage],
    done: Vec<Progress>,
}

impl Resolver<'_> {
    /// One node with all below it; nodes met before are shared.
    fn value(&mut self, id: Id, depth: usize) -> Result<Value> {
        match &self.done[id as usize] {
            Progress::Done(value) => return Ok(value.clone()),
            Progress::Started => {
                let what = "a value that contains itself".to_owned();
                return Err(Error::Pickle { path: self.path.to_owned(), at: 0, what });
            }
            Progress::New => {}
        }
        if depth > self.limits.max_depth {
            return Err(Error::TooLarge {
                path: self.path.to_owned(),
                what: "depth of nested values",
                found: depth as u64,
                limit: self.limits.max_depth as u64,
                option: "max_depth",
            });
        }
        self.done[id as usize] = Progress::Started;
        let value = self.fresh(id, depth + 1)?;
        self.done[id as usize] = Progress::Done(value.clone());
        Ok(value)
    }

    fn fresh(&mut self, id: Id, depth: usize) -> Result<Value> {
        let graph = self.graph;
        Ok(match graph.node(id) {
            Node::None => Value::None,
            Node::Bool(flag) => Value::Bool(*flag),
            Node::Int(number) => Value::Int(*number),
            Node::Float(number) => Value::Float(*number),
            Node::Big(range) => big(&self.program[range.clone()]),
            Node::Str(range) => Value::Str(String::from_utf8_lossy(&self.program[range.clone()]).into()),
            Node::Bytes(range) => Value::Bytes(self.program[range.clone()].into()),
            Node::Latin1(range) => {
                let text = String::from_utf8_lossy(&self.program[range.clone()]);
                // Beyond Latin-1 Python would have refused; such text stays as it is.
                match text.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<Vec<u8>, _>>() {
                    Ok(bytes) => Value::Bytes(bytes.into()),
                    Err(_) => Value::Str(text.into()),
                }
            }
            Node::List(items) => Value::List(self.items(items, depth)?.into()),
            Node::Tuple(items) => Value::Tuple(self.items(items, depth)?.into()),
            Node::Set(items) => Value::Set(self.items(items, depth)?.into()),
            Node::Dict(dict) => Value::Dict(Arc::new(Dict {
                entries: self.entries(&dict.entries, depth)?,
                is_ordered: dict.is_ordered,
                attributes: self.optional(dict.attributes, depth)?,
            })),
            Node::Global(global) => {
                Value::Global(Arc::new(Global { module: global.module.clone(), name: global.name.clone() }))
            }
            Node::Storage(storage) => {
                // A bare storage: its bytes as a flat tensor.
                let entry = &graph.storages[storage.entry];
                let len = storage.stretch.map_or(entry.len, |(_, len)| len) as usize;
                let (shape, strides) = (vec![len], vec![1]);
                let storage = storage.as_ref().clone();
                self.tensor(&TensorNode { storage, dtype: entry.dtype, offset: 0, shape, strides })?.into()
            }
            Node::Tensor(tensor) => self.tensor(tensor)?.into(),
            Node::Object(object) => {
                let Value::Global(class) = self.value(object.class, depth)? else {
                    unreachable!("only globals are called")
                };
                Value::Object(Arc::new(Object {
                    class,
                    args: self.value(object.args, depth)?,
                    state: self.optional(object.state, depth)?,
                    entries: self.entries(&object.entries, depth)?,
                    items: self.items(&object.items, depth)?,
                }))
            }
        })
    }

    fn optional(&mut self, id: Option<Id>, depth: usize) -> Result<Value> {
        id.map_or(Ok(Value::None), |id| self.value(id, depth))
    }

    fn items(&mut self, items: &[Id], depth: usize) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(items.len());
        for &id in items {
            values.push(self.value(id, depth)?);
        }
        Ok(values)
    }

    /// Later values replace earlier ones under the same text or number, in the earlier one's place, as in Python.
    fn entries(&mut self, entries: &[(Id, Id)], depth: usize) -> Result<Vec<(Value, Value)>> {
        #[derive(PartialEq, Eq, Hash)]
        enum Key {
            Text(Arc<str>),
            Number(i64),
        }
        let mut places: HashMap<Key, usize> = HashMap::with_capacity(entries.len());
        let mut out: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        for &(key, value) in entries {
            let (key, value) = (self.value(key, depth)?, self.value(value, depth)?);
            let place = match &key {
                Value::Str(text) => Some(Key::Text(text.clone())),
                Value::Int(number) => Some(Key::Number(*number)),
                _ => None,
            }
            .map(|key| *places.entry(key).or_insert(out.len()));
            match place.and_then(|place| out.get_mut(place)) {
                Some(entry) => entry.1 = value,
                None => out.push((key, value)),
            }
        }
        Ok(out)
    }

    fn tensor(&self, node: &TensorNode) -> Result<Tensor> {
        let entry = &self.graph.storages[node.storage.entry];
        let fail = |cause| Error::Tensor { path: self.path.to_owned(), key: entry.key.clone(), cause };
        let storage = self.stretch(&node.storage).map_err(fail)?;
        let stored = storage.bytes().len();
        let tensor =
            Tensor::view(node.dtype, &node.shape, &node.strides, node.offset, storage).map_err(fail)?;
        let (found, limit) = (tensor.byte_len(), self.limits.max_expanded_bytes);
        if found > stored && found > limit {
            return Err(fail(LayoutError::Expanded { shape: node.shape.clone(), found, limit }));
        }
        Ok(tensor)
    }

    fn stretch(&self, node: &StorageNode) -> Result<Storage, LayoutError> {
        let storage = &self.storages[node.entry];
        let Some((first, len)) = node.stretch else { return Ok(storage.clone()) };
        let size = self.graph.storages[node.entry].dtype.size();
        let (first, len) = (first as usize, len as usize);
        let stored = storage.bytes().len() / size;
        let range = || {
            let start = first.checked_mul(size)?;
            Some(start..start.checked_add(len.checked_mul(size)?)?)
        };
        range().and_then(|range| storage.slice(range)).ok_or(LayoutError::OutOfBounds {
            shape: vec![len],
            strides: vec![1],
            offset: first,
            stored,
        })
    }
}

/// The shortest form of a two's complement number, `Int` where that holds it.
fn big(digits: &[u8]) -> Value {
    let fill = if digits.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut len = digits.len();
    while len > 1 && digits[len - 1] == fill && (digits[len - 2] ^ fill) & 0x80 == 0 {
        len -= 1;
    }
    if len > 8 {
        return Value::BigInt(digits[..len].into());
    }
    let mut number = [fill; 8];
    number[..len].copy_from_slice(&digits[..len]);
    Value::Int(i64::from_le_bytes(number))
}
