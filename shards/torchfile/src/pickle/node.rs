use std::ops::Range;

use crate::dtype::Dtype;

use super::globals::Role;

/// The number of a node within its graph.
pub(crate) type Id = u32;

/// One value of a program, its children by number and its text by place in the program.
#[derive(Debug)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Big(Range<usize>),
    Float(f64),
    Str(Range<usize>),
    Bytes(Range<usize>),
    /// The bytes whose Latin-1 reading is this text: how protocol 2 writes Python 3's `bytes`.
    Latin1(Range<usize>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Box<DictNode>),
    Set(Vec<Id>),
    Global(Box<GlobalNode>),
    Storage(Box<StorageNode>),
    Tensor(Box<TensorNode>),
    Object(Box<ObjectNode>),
}

#[derive(Debug, Default)]
pub(crate) struct DictNode {
    pub entries: Vec<(Id, Id)>,
    pub is_ordered: bool,
    pub attributes: Option<Id>,
}

#[derive(Debug)]
pub(crate) struct GlobalNode {
    pub module: String,
    pub name: String,
    pub role: Role,
}

/// A storage, or in the older container a stretch of one.
#[derive(Debug, Clone)]
pub(crate) struct StorageNode {
    pub entry: usize,
    /// First element and number of elements.
    pub stretch: Option<(u64, u64)>,
}

#[derive(Debug)]
pub(crate) struct TensorNode {
    pub storage: StorageNode,
    pub dtype: Dtype,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct ObjectNode {
    pub class: Id,
    pub args: Id,
    pub state: Option<Id>,
    pub entries: Vec<(Id, Id)>,
    pub items: Vec<Id>,
}

/// What a program says about one storage; its bytes lie elsewhere in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StorageEntry {
    pub key: String,
    pub dtype: Dtype,
    /// Number of elements.
    pub len: u64,
}

/// What a program made.
#[derive(Debug)]
pub(crate) struct Graph {
    pub nodes: Vec<Node>,
    pub root: Id,
    pub storages: Vec<StorageEntry>,
}

impl Graph {
    pub fn root(&self) -> &Node {
        self.node(self.root)
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }
}
