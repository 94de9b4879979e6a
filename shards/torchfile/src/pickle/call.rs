use super::globals::Role;
use super::machine::Machine;
use super::node::{DictNode, Id, Node, ObjectNode, StorageEntry, StorageNode, TensorNode};
use crate::Result;
use crate::dtype::Dtype;
use crate::tensor::Tensor;

/// What calling a global means: copies of small things, inert objects for the rest.
impl Machine<'_> {
    /// `REDUCE` and `NEWOBJ`: what `callee(*args)` would have been.
    pub(super) fn call(&mut self, callee: Id, args: Id) -> Result<Id> {
        let Node::Global(global) = self.node(callee) else {
            return Err(self.fault("calls something that is no global"));
        };
        let role = global.role;
        let given = self.items(args, "the arguments of a call")?;
        let first = given.first().copied();
        let node = match role {
            Role::RebuildTensor => self.tensor(&given, None)?,
            Role::RebuildTensorV3 => {
                let Some(Node::Global(global)) = given.get(6).map(|&id| self.node(id)) else {
                    return Err(self.fault("a tensor without its element type"));
                };
                let Role::Dtype(dtype) = global.role else {
                    return Err(self.fault(format!("{} is no element type", global.name)));
                };
                self.tensor(&given, Some(dtype))?
            }
            Role::RebuildParameter => {
                return match first {
                    Some(id) if matches!(self.node(id), Node::Tensor(_)) => Ok(id),
                    _ => Err(self.fault("a parameter made of something that is no tensor")),
                };
            }
            Role::RebuildFromType => {
                let &[inner, _, args, ..] = given.as_slice() else {
                    return Err(self.fault("a tensor subclass with too few parts"));
                };
                // One level only: each needs a call of its own that is not this one.
                if matches!(self.node(inner), Node::Global(global) if global.role == Role::RebuildFromType) {
                    return Err(self.fault("a tensor subclass made of itself"));
                }
                return self.call(inner, args);
            }
            Role::OrderedDict | Role::Dict => {
                let is_ordered = role == Role::OrderedDict;
                let entries = match first.map(|id| self.node(id)) {
                    None | Some(Node::Global(_) | Node::None) => Vec::new(),
                    Some(Node::Dict(dict)) => dict.entries.clone(),
                    Some(_) => self.pairs(given[0])?,
                };
                self.spend(entries.len())?;
                Node::Dict(Box::new(DictNode { entries, is_ordered, attributes: None }))
            }
            Role::Set => Node::Set(self.items_or_none(first)?),
            Role::List => Node::List(self.items_or_none(first)?),
            Role::Tuple => Node::Tuple(self.items_or_none(first)?),
            Role::Encode => match first.map(|id| self.node(id)) {
                Some(Node::Str(range)) => {
                    let range = range.clone();
                    self.spend(range.len())?;
                    Node::Latin1(range)
                }
                _ => return Err(self.fault("encodes something that is no text")),
            },
            Role::Reconstructor => match first {
                Some(class) if matches!(self.node(class), Node::Global(_)) => {
                    let args = self.add(Node::Tuple(Vec::new()))?;
                    object(class, args)
                }
                _ => return Err(self.fault("an instance of something that is no class")),
            },
            Role::TensorClass => {
                return Err(self.fault("a tensor in the form that torch stopped writing in 2017"));
            }
            Role::Inert | Role::Storage(_) | Role::Dtype(_) => object(callee, args),
        };
        self.add(node)
    }

    /// `BUILD`: gives `target` its state.
    pub(super) fn build(&mut self, target: Id, state: Id) -> Result<()> {
        match &mut self.nodes[target as usize] {
            Node::Object(object) => object.state = Some(state),
            Node::Dict(dict) => dict.attributes = Some(state),
            _ => return Err(self.fault("gives a state to something that is no instance")),
        }
        Ok(())
    }

    /// `BINPERSID`: what torch keeps outside of the pickle. `("storage", class, key, device, length[, view])`,
    /// or in the older container also `("module", class, file, source)`, which stands for the class.
    pub(super) fn persistent(&mut self, id: Id) -> Result<Id> {
        let parts = self.items(id, "a persistent id")?;
        let kind = parts.first().and_then(|&id| self.str(id)).unwrap_or_default();
        match (kind, parts.as_slice()) {
            ("module", &[_, class, ..]) if matches!(self.node(class), Node::Global(_)) => Ok(class),
            ("storage", &[_, class, key, _device, len, ref view @ ..]) => {
                let dtype = match self.node(class) {
                    Node::Global(global) => match global.role {
                        Role::Storage(dtype) => dtype,
                        _ => return Err(self.fault(format!("{} is no storage class", global.name))),
                    },
                    _ => return Err(self.fault("a storage without a class")),
                };
                let key = match self.node(key) {
                    Node::Str(_) => self.str(key).unwrap_or_default().to_owned(),
                    Node::Int(number) => number.to_string(),
                    _ => return Err(self.fault("a storage without a key")),
                };
                let len = self.size(len)? as u64;
                let stretch = match view.first().map(|&id| self.node(id)) {
                    None | Some(Node::None) => None,
                    Some(_) => {
                        let &[_key, first, len] = self.items(view[0], "a storage's view")?.as_slice() else {
                            return Err(self.fault("a storage's view is not (key, offset, length)"));
                        };
                        Some((self.size(first)? as u64, self.size(len)? as u64))
                    }
                };
                let entry = self.storage(StorageEntry { key, dtype, len })?;
                self.add(Node::Storage(Box::new(StorageNode { entry, stretch })))
            }
            _ => Err(self.fault("a persistent id that is neither a storage nor a module")),
        }
    }

    fn storage(&mut self, entry: StorageEntry) -> Result<usize> {
        if let Some(&known) = self.storage_of_key.get(&entry.key) {
            if self.storages[known] != entry {
                return Err(self.fault(format!("storage {} has two descriptions", entry.key)));
            }
            return Ok(known);
        }
        self.spend(entry.key.len())?;
        self.storage_of_key.insert(entry.key.clone(), self.storages.len());
        self.storages.push(entry);
        Ok(self.storages.len() - 1)
    }

    /// `(storage, offset, shape, strides, …)`; the storage's own element type where none is given.
    fn tensor(&mut self, parts: &[Id], dtype: Option<Dtype>) -> Result<Node> {
        let &[storage, offset, shape, strides, ..] = parts else {
            return Err(self.fault("a tensor with too few parts"));
        };
        let Node::Storage(storage) = self.node(storage) else {
            return Err(self.fault("a tensor without a storage"));
        };
        let storage = StorageNode::clone(storage);
        let dtype = dtype.unwrap_or(self.storages[storage.entry].dtype);
        let offset = self.size(offset)?;
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        Ok(Node::Tensor(Box::new(TensorNode { storage, dtype, offset, shape, strides })))
    }

    fn sizes(&mut self, id: Id) -> Result<Vec<usize>> {
        let items = self.items(id, "a shape")?;
        if items.len() > Tensor::MAX_DIMS {
            return Err(self.fault(format!("a tensor of {} dimensions", items.len())));
        }
        items.into_iter().map(|id| self.size(id)).collect()
    }

    fn size(&self, id: Id) -> Result<usize> {
        match self.node(id) {
            Node::Int(number) if let Ok(size) = usize::try_from(*number) => Ok(size),
            _ => Err(self.fault("a size that is no natural number")),
        }
    }

    fn str(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Str(range) => std::str::from_utf8(&self.bytes[range.clone()]).ok(),
            _ => None,
        }
    }

    /// A copy of a list's, tuple's or set's links, paid for.
    fn items(&mut self, id: Id, what: &str) -> Result<Vec<Id>> {
        let (Node::Tuple(items) | Node::List(items) | Node::Set(items)) = self.node(id) else {
            return Err(self.fault(format!("{what} are no tuple")));
        };
        let items = items.clone();
        self.spend(items.len())?;
        Ok(items)
    }

    fn items_or_none(&mut self, id: Option<Id>) -> Result<Vec<Id>> {
        id.map_or(Ok(Vec::new()), |id| self.items(id, "a collection's items"))
    }

    fn pairs(&mut self, id: Id) -> Result<Vec<(Id, Id)>> {
        let items = self.items(id, "a dict's entries")?;
        items
            .into_iter()
            .map(|item| match self.items(item, "a dict's entry")?.as_slice() {
                &[key, value] => Ok((key, value)),
                _ => Err(self.fault("a dict's entry that is no pair")),
            })
            .collect()
    }
}

fn object(class: Id, args: Id) -> Node {
    Node::Object(Box::new(ObjectNode { class, args, state: None, entries: Vec::new(), items: Vec::new() }))
}
