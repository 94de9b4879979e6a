use std::path::Path;

use crate::tensor::Tensor;
use crate::value::{Object, Value};
use crate::{Error, Result};

/// Modules visited and bytes of names made before a walk gives up: shared modules can stand for a huge tree.
const MAX_MODULES: usize = 100_000;
const MAX_NAME_BYTES: usize = 64 << 20;

/// A `torch.nn.Module` as data: plain fields by [`Object::attr`], parameters and children by the names below.
impl Object {
    /// The sub-modules, in order.
    pub fn children(&self) -> impl Iterator<Item = (&str, &Object)> {
        self.table("_modules").filter_map(|(name, value)| Some((name, value.as_object()?)))
    }

    /// The sub-module at a dotted path such as `blocks.group_1.block_1`; the module itself for the empty path.
    pub fn module(&self, path: &str) -> Option<&Object> {
        if path.is_empty() {
            return Some(self);
        }
        path.split('.').try_fold(self, |module, name| {
            module.children().find(|(child, _)| *child == name).map(|(_, child)| child)
        })
    }

    /// Every parameter under its dotted name, in the order of Python's `named_parameters()`.
    ///
    /// # Errors
    /// [`Error::Endless`] when shared modules stand for more than 100,000; `file` is only for that message
    pub fn named_parameters(&self, file: &Path) -> Result<Vec<(String, Tensor)>> {
        self.walk(file, false)
    }

    /// Every parameter and persistent buffer under its dotted name, in the order of Python's `state_dict()`.
    ///
    /// # Errors
    /// as [`Object::named_parameters`]
    pub fn named_tensors(&self, file: &Path) -> Result<Vec<(String, Tensor)>> {
        self.walk(file, true)
    }

    fn walk(&self, file: &Path, with_buffers: bool) -> Result<Vec<(String, Tensor)>> {
        let (mut modules, mut name_bytes) = (0, 0);
        let mut out = Vec::new();
        let mut pending = vec![(String::new(), self)];
        while let Some((prefix, module)) = pending.pop() {
            // What a short file cannot have spelt out, it must not make us spell out.
            modules += 1;
            let names = module
                .own_tensors(with_buffers)
                .map(|(name, _)| name)
                .chain(module.children().map(|(name, _)| name));
            name_bytes += names.map(|name| prefix.len() + name.len() + 1).sum::<usize>();
            if modules > MAX_MODULES || name_bytes > MAX_NAME_BYTES {
                return Err(Error::Endless { path: file.to_owned(), modules: MAX_MODULES });
            }
            let own = module.own_tensors(with_buffers);
            out.extend(own.map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())));
            let first_child = pending.len();
            pending.extend(module.children().map(|(name, child)| (format!("{prefix}{name}."), child)));
            pending[first_child..].reverse();
        }
        Ok(out)
    }

    fn own_tensors(&self, with_buffers: bool) -> impl Iterator<Item = (&str, &Tensor)> {
        let passing = self.attr("_non_persistent_buffers_set").and_then(Value::as_items).unwrap_or(&[]);
        let is_passing = |name: &str| passing.iter().any(|item| item.as_str() == Some(name));
        let buffers = self.table("_buffers").filter(move |(name, _)| with_buffers && !is_passing(name));
        self.table("_parameters").chain(buffers).filter_map(|(name, value)| Some((name, value.as_tensor()?)))
    }

    fn table(&self, name: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.attr(name).and_then(Value::as_dict).into_iter().flat_map(|dict| dict.iter())
    }
}
