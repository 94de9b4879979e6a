use std::fmt;
use std::sync::Arc;

use crate::tensor::Tensor;

/// One value of a pickle, inert: reading or dropping it runs nothing.
///
/// Cloning copies a pointer. Values that a file shares are shared here too, so a small file can describe a huge tree
/// when it is written out: walk it with a budget, as [`Object::named_tensors`] does.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the names are Python's")]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond `i64`: two's complement, little-endian, shortest form.
    BigInt(Arc<[u8]>),
    Float(f64),
    Str(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<[Value]>),
    Tuple(Arc<[Value]>),
    Dict(Arc<Dict>),
    /// `set` or `frozenset`, in the order of the file.
    Set(Arc<[Value]>),
    Tensor(Arc<Tensor>),
    /// A class, function or data type named but not called, for instance `torch.float32`.
    Global(Arc<Global>),
    /// An instance of a known class.
    Object(Arc<Object>),
}

impl Value {
    /// An `OrderedDict` of tensors, as `state_dict()` returns in Python.
    pub fn state_dict<N: Into<String>>(tensors: impl IntoIterator<Item = (N, Tensor)>) -> Value {
        let entries =
            tensors.into_iter().map(|(name, tensor)| (Value::from(name.into()), Value::from(tensor)));
        Value::Dict(Arc::new(Dict { entries: entries.collect(), is_ordered: true, attributes: Value::None }))
    }

    /// A plain `dict` with strings for keys.
    pub fn dict<N: Into<String>>(entries: impl IntoIterator<Item = (N, Value)>) -> Value {
        let entries = entries.into_iter().map(|(name, value)| (Value::from(name.into()), value));
        Value::Dict(Arc::new(Dict { entries: entries.collect(), is_ordered: false, attributes: Value::None }))
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Value>) -> Value {
        Value::List(items.into_iter().collect())
    }

    /// What lies under `name`: a dict's entry or an object's attribute.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Dict(dict) => dict.get(name),
            Value::Object(object) => object.attr(name),
            _ => None,
        }
    }

    /// The number, for `Int` and `Bool`.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            Value::Bool(flag) => Some(i64::from(*flag)),
            _ => None,
        }
    }

    /// The number, for `Float`, `Int` and `Bool`.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            other => other.as_int().map(|number| number as f64),
        }
    }

    /// The flag, for `Bool`.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(flag) = self { Some(*flag) } else { None }
    }

    /// The text, for `Str`.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) = self { Some(text) } else { None }
    }

    /// The dict, `OrderedDict` included.
    pub fn as_dict(&self) -> Option<&Dict> {
        if let Value::Dict(dict) = self { Some(dict) } else { None }
    }

    /// The tensor; a `Parameter` is one too.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        if let Value::Tensor(tensor) = self { Some(tensor) } else { None }
    }

    /// The instance.
    pub fn as_object(&self) -> Option<&Object> {
        if let Value::Object(object) = self { Some(object) } else { None }
    }

    /// The items of a list, tuple or set.
    pub fn as_items(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => Some(items),
            _ => None,
        }
    }

    /// A few words for messages: `a dict of 3`, `an instance of argparse.Namespace`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Value::None => "None".into(),
            Value::Bool(_) => "a bool".into(),
            Value::Int(_) | Value::BigInt(_) => "an integer".into(),
            Value::Float(_) => "a float".into(),
            Value::Str(_) => "a string".into(),
            Value::Bytes(_) => "bytes".into(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Tuple(items) => format!("a tuple of {}", items.len()),
            Value::Set(items) => format!("a set of {}", items.len()),
            Value::Dict(dict) => format!("a dict of {}", dict.entries.len()),
            Value::Tensor(tensor) => format!("a tensor of shape {:?}", tensor.shape()),
            Value::Global(global) => format!("the global {global}"),
            Value::Object(object) => format!("an instance of {}", object.class),
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Int(number)
    }
}
impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Bool(flag)
    }
}
impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Float(number)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.into())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Str(text.into())
    }
}
impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Value {
        Value::Tensor(Arc::new(tensor))
    }
}

/// A `dict`, `OrderedDict` or `defaultdict`, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Dict {
    /// Keys and values; text and integer keys appear once, with the last value given to them.
    pub entries: Vec<(Value, Value)>,
    /// Whether it is a `collections.OrderedDict`.
    pub is_ordered: bool,
    /// Attributes set on the dict itself, such as a state dict's `_metadata`; `None` where there are none.
    pub attributes: Value,
}

impl Dict {
    /// The value under the text `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The entries whose keys are text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().filter_map(|(key, value)| Some((key.as_str()?, value)))
    }
}

/// The name of a Python class, function or constant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Python's words")]
pub struct Global {
    pub module: String,
    pub name: String,
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// An instance of a known Python class, as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The class, or the function that would have made the instance.
    pub class: Arc<Global>,
    /// What Python would have called it with, a tuple; `torch.device` keeps its name here.
    pub args: Value,
    /// What Python would have given to `__setstate__`: mostly a dict of attributes; `None` where there is none.
    pub state: Value,
    /// Entries given one by one, for subclasses of `dict`.
    pub entries: Vec<(Value, Value)>,
    /// Items given one by one, for subclasses of `list`.
    pub items: Vec<Value>,
}

impl Object {
    /// The attribute `name` from the instance's state, be it a dict or a pair (dict, slots).
    pub fn attr(&self, name: &str) -> Option<&Value> {
        match &self.state {
            Value::Dict(dict) => dict.get(name),
            Value::Tuple(parts) if parts.len() == 2 => {
                parts.iter().filter_map(Value::as_dict).find_map(|dict| dict.get(name))
            }
            _ => None,
        }
    }
}
