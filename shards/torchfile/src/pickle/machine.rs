use std::collections::HashMap;
use std::path::Path;

use super::globals;
use super::node::{DictNode, GlobalNode, Graph, Id, Node, StorageEntry};
use super::reading::MAX_GLOBAL_BYTES;
use crate::{Error, Limits, Result};

/// One run of one pickle program.
///
/// The stack holds node numbers; `marks` holds the heights at which `MARK` was called. An instruction never reaches
/// below the innermost mark, as in Python's own machine.
pub(crate) struct Machine<'a> {
    pub(super) path: &'a Path,
    pub(super) limits: &'a Limits,
    pub(super) bytes: &'a [u8],
    pub(super) start: usize,
    /// The next byte to read.
    pub(super) at: usize,
    /// The instruction being executed, for messages.
    pub(super) instruction: usize,
    pub(super) steps: usize,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    pub(super) storages: Vec<StorageEntry>,
    pub(super) storage_of_key: HashMap<String, usize>,
}

impl<'a> Machine<'a> {
    /// Runs the program that begins at `start` of `bytes`; also says where it ended.
    ///
    /// # Errors
    /// [`Error::Pickle`], [`Error::UnknownGlobal`] and [`Error::TooLarge`]
    pub fn run(path: &'a Path, limits: &'a Limits, bytes: &'a [u8], start: usize) -> Result<(Graph, usize)> {
        let mut machine = Machine {
            path,
            limits,
            bytes,
            start,
            at: start,
            instruction: start,
            steps: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            storages: Vec::new(),
            storage_of_key: HashMap::new(),
        };
        loop {
            machine.instruction = machine.at;
            machine.spend(1)?;
            let opcode = machine.u8()?;
            if opcode == b'.' {
                let root = machine.pop()?;
                let graph = Graph { nodes: machine.nodes, root, storages: machine.storages };
                return Ok((graph, machine.at));
            }
            machine.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // PROTO, FRAME: nothing to do but to check.
            0x80 => {
                let protocol = self.u8()?;
                if protocol > 5 {
                    return Err(self.fault(format!("pickle protocol {protocol}, at most 5 is known")));
                }
            }
            0x95 => {
                let frame = self.u64()?;
                if frame > (self.bytes.len() - self.at) as u64 {
                    return Err(self.fault(format!("a frame of {frame} bytes reaches past the end")));
                }
            }
            // NONE NEWTRUE NEWFALSE
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            // BININT BININT1 BININT2 BINFLOAT
            b'J' => {
                let number = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(number.into()))?;
            }
            b'K' => {
                let number = self.u8()?;
                self.push(Node::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(number.into()))?;
            }
            b'G' => {
                let number = f64::from_be_bytes(self.array()?);
                self.push(Node::Float(number))?;
            }
            // LONG1 LONG4
            0x8a => {
                let len = self.u8()?;
                self.long(len.into())?;
            }
            0x8b => {
                let len = self.u32()?;
                self.long(len.into())?;
            }
            // SHORT_BINUNICODE BINUNICODE BINUNICODE8
            0x8c => {
                let len = self.u8()?;
                self.text(len.into())?;
            }
            b'X' => {
                let len = self.u32()?;
                self.text(len.into())?;
            }
            0x8d => {
                let len = self.u64()?;
                self.text(len)?;
            }
            // SHORT_BINSTRING BINSTRING: Python 2's str, text where it can be.
            b'U' => {
                let len = self.u8()?;
                self.old_string(len.into())?;
            }
            b'T' => {
                let len = self.u32()?;
                self.old_string(len.into())?;
            }
            // SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
            b'C' => {
                let len = self.u8()?;
                self.raw(len.into())?;
            }
            b'B' => {
                let len = self.u32()?;
                self.raw(len.into())?;
            }
            0x8e | 0x96 => {
                let len = self.u64()?;
                self.raw(len)?;
            }
            // EMPTY_LIST EMPTY_TUPLE EMPTY_DICT EMPTY_SET
            b']' => self.push(Node::List(Vec::new()))?,
            b')' => self.push(Node::Tuple(Vec::new()))?,
            b'}' => self.push(Node::Dict(Box::default()))?,
            0x8f => self.push(Node::Set(Vec::new()))?,
            // MARK POP POP_MARK DUP
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            // TUPLE TUPLE1 TUPLE2 TUPLE3 LIST DICT FROZENSET
            b't' => {
                let items = self.pop_mark()?;
                self.push(Node::Tuple(items))?;
            }
            0x85..=0x87 => {
                let len = usize::from(opcode - 0x84);
                let items = self.pop_last(len)?;
                self.push(Node::Tuple(items))?;
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.push(Node::List(items))?;
            }
            b'd' => {
                let entries = self.pop_entries()?;
                self.push(Node::Dict(Box::new(DictNode { entries, ..DictNode::default() })))?;
            }
            0x91 => {
                let items = self.pop_mark()?;
                self.push(Node::Set(items))?;
            }
            // APPEND APPENDS SETITEM SETITEMS ADDITEMS
            b'a' => {
                let items = self.pop_last(1)?;
                self.append(items)?;
            }
            b'e' | 0x90 => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            b's' => {
                let pair = self.pop_last(2)?;
                self.set_entries(vec![(pair[0], pair[1])])?;
            }
            b'u' => {
                let entries = self.pop_entries()?;
                self.set_entries(entries)?;
            }
            // BINPUT LONG_BINPUT MEMOIZE
            b'q' => {
                let slot = self.u8()?;
                self.memoize(slot.into())?;
            }
            b'r' => {
                let slot = self.u32()?;
                self.memoize(slot)?;
            }
            0x94 => self.memoize(self.memo.len() as u32)?,
            // BINGET LONG_BINGET
            b'h' => {
                let slot = self.u8()?;
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = self.u32()?;
                self.recall(slot)?;
            }
            // GLOBAL STACK_GLOBAL
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.global(&module, &name)?;
            }
            0x93 => {
                let names = self.pop_last(2)?;
                let (module, name) = (self.short_text(names[0])?, self.short_text(names[1])?);
                self.global(&module, &name)?;
            }
            // BINPERSID NEWOBJ NEWOBJ_EX REDUCE BUILD
            b'Q' => {
                let id = self.pop()?;
                let id = self.persistent(id)?;
                self.stack.push(id);
            }
            0x81 | b'R' => {
                let parts = self.pop_last(2)?;
                let id = self.call(parts[0], parts[1])?;
                self.stack.push(id);
            }
            0x92 => {
                // Keyword arguments of `__new__`: kept for nobody, refused where they would matter.
                let parts = self.pop_last(3)?;
                if !matches!(self.node(parts[2]), Node::Dict(dict) if dict.entries.is_empty()) {
                    return Err(self.fault("a class is called with keyword arguments"));
                }
                let id = self.call(parts[0], parts[1])?;
                self.stack.push(id);
            }
            b'b' => {
                let parts = self.pop_last(2)?;
                self.build(parts[0], parts[1])?;
                self.stack.push(parts[0]);
            }
            other => {
                return Err(self.fault(format!("instruction {other:#04x} is none that torch.save writes")));
            }
        }
        Ok(())
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn add(&mut self, node: Node) -> Result<Id> {
        self.within("values of a pickle", self.nodes.len(), self.limits.max_objects, "max_objects")?;
        let id =
            Id::try_from(self.nodes.len()).map_err(|_| self.fault("more values than can be numbered"))?;
        self.nodes.push(node);
        Ok(id)
    }

    pub(super) fn push(&mut self, node: Node) -> Result<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err(self.fault("takes a value from an empty stack")),
        }
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_last(&mut self, len: usize) -> Result<Vec<Id>> {
        if self.stack.len() - self.floor() < len {
            return Err(self.fault("takes a value from an empty stack"));
        }
        Ok(self.stack.split_off(self.stack.len() - len))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark =
            self.marks.pop().ok_or_else(|| self.fault("takes values up to a mark that is not there"))?;
        Ok(self.stack[mark..].to_vec()).inspect(|_| self.stack.truncate(mark))
    }

    fn pop_entries(&mut self) -> Result<Vec<(Id, Id)>> {
        let flat = self.pop_mark()?;
        let (pairs, rest) = flat.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.fault("a key without a value"));
        }
        Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
    }

    fn memoize(&mut self, slot: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let id = *self.memo.get(&slot).ok_or_else(|| self.fault(format!("memo slot {slot} is empty")))?;
        self.stack.push(id);
        Ok(())
    }

    fn append(&mut self, new: Vec<Id>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target as usize] {
            Node::List(items) | Node::Set(items) => items.extend(new),
            Node::Object(object) => object.items.extend(new),
            _ => return Err(self.fault("appends to something that is no list")),
        }
        Ok(())
    }

    fn set_entries(&mut self, new: Vec<(Id, Id)>) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target as usize] {
            Node::Dict(dict) => dict.entries.extend(new),
            Node::Object(object) => object.entries.extend(new),
            _ => return Err(self.fault("sets an entry of something that is no dict")),
        }
        Ok(())
    }

    fn short_text(&self, id: Id) -> Result<String> {
        match self.node(id) {
            Node::Str(range) if range.len() <= MAX_GLOBAL_BYTES => {
                Ok(String::from_utf8_lossy(&self.bytes[range.clone()]).into_owned())
            }
            _ => Err(self.fault("a global's name that is no short text")),
        }
    }

    fn global(&mut self, module: &str, name: &str) -> Result<()> {
        let Some(role) = globals::role(module, name, &self.limits.known_modules) else {
            let global = format!("{module}.{name}").escape_debug().to_string();
            return Err(Error::UnknownGlobal { path: self.path.to_owned(), global });
        };
        let (module, name) = (module.to_owned(), name.to_owned());
        self.push(Node::Global(Box::new(GlobalNode { module, name, role })))
    }
}
