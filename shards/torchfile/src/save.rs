use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{Cursor, Seek, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::dtype::Dtype;
use crate::publish::publish;
use crate::tensor::Tensor;
use crate::value::{Dict, Value};
use crate::{Error, Limits, Result};

/// The folder inside the archive; torch names it after the file, which would tie the bytes to the file's name.
const FOLDER: &str = "archive";

/// Writes `root` as `torch.save` does (zip container, protocol 2), atomically; the same tree gives the same bytes.
///
/// Tensors that share a storage share it in the file too, layouts and all, so a view of a large storage brings all
/// of it along. Python's `torch.load(path, weights_only=True)` reads the result.
///
/// # Errors
/// [`Error::Io`], [`Error::Unwritable`] for globals but element types, for instances, and for too deep trees
pub fn save_pth(path: impl AsRef<Path>, root: &Value) -> Result<()> {
    let path = path.as_ref();
    let pickle = Pickler::run(path, root)?;
    publish(path, |out| pickle.write(path, out))
}

/// The bytes that [`save_pth`] writes.
///
/// # Errors
/// [`Error::Unwritable`] as there; `path` is only for that message
pub fn pth_bytes(path: impl AsRef<Path>, root: &Value) -> Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    Pickler::run(path.as_ref(), root)?.write(path.as_ref(), &mut out)?;
    Ok(out.into_inner())
}

/// Writes a pickle program and gathers the storages it names.
struct Pickler<'v> {
    path: &'v Path,
    program: Vec<u8>,
    /// Memo slots of the globals written so far.
    globals: HashMap<(&'static str, &'static str), u8>,
    storages: Vec<Cow<'v, [u8]>>,
    /// The number of each storage seen, by place in memory and element type.
    known: HashMap<((usize, usize, usize), Dtype), usize>,
    /// Where in the tree we are, for messages.
    place: Vec<String>,
}

impl<'v> Pickler<'v> {
    fn run(path: &'v Path, root: &'v Value) -> Result<Pickler<'v>> {
        let mut pickler = Pickler {
            path,
            program: vec![0x80, 2],
            globals: HashMap::new(),
            storages: Vec::new(),
            known: HashMap::new(),
            place: Vec::new(),
        };
        pickler.value(root)?;
        pickler.program.push(b'.');
        Ok(pickler)
    }

    fn unwritable(&self, what: impl Into<String>) -> Error {
        let place = if self.place.is_empty() { "the top".to_owned() } else { self.place.join(".") };
        Error::Unwritable { path: self.path.to_owned(), place, what: what.into() }
    }

    fn value(&mut self, value: &'v Value) -> Result<()> {
        if self.place.len() >= Limits::default().max_depth / 2 {
            return Err(self.unwritable("a tree this deep"));
        }
        match value {
            Value::None => self.program.push(b'N'),
            Value::Bool(flag) => self.program.push(if *flag { 0x88 } else { 0x89 }),
            Value::Int(number) => self.int(*number),
            Value::BigInt(digits) => {
                let len = u8::try_from(digits.len()).map_err(|_| self.unwritable("an integer this large"))?;
                self.program.extend([0x8a, len]);
                self.program.extend_from_slice(digits);
            }
            Value::Float(number) => {
                self.program.push(b'G');
                self.program.extend(number.to_be_bytes());
            }
            Value::Str(text) => self.text(text)?,
            Value::Bytes(bytes) => {
                // Protocol 2 has no bytes: as Python does, text whose Latin-1 form they are.
                self.global("_codecs", "encode");
                self.text(&bytes.iter().map(|&byte| char::from(byte)).collect::<String>())?;
                self.text("latin1")?;
                self.program.extend([0x86, b'R']);
            }
            Value::List(items) => {
                self.program.push(b']');
                self.items(items)?;
            }
            Value::Tuple(items) => {
                self.program.push(b'(');
                for (i, item) in items.iter().enumerate() {
                    self.at(|| format!("[{i}]"), item)?;
                }
                self.program.push(b't');
            }
            Value::Set(items) => {
                self.global("__builtin__", "set");
                self.program.push(b']');
                self.items(items)?;
                self.program.extend([0x85, b'R']);
            }
            Value::Dict(dict) => self.dict(dict)?,
            Value::Tensor(tensor) => self.tensor(tensor)?,
            Value::Global(global) => match Dtype::from_torch_name(&global.name) {
                Some(dtype) if global.module == "torch" => self.global("torch", dtype.torch_name()),
                _ => return Err(self.unwritable(value.describe())),
            },
            Value::Object(_) => return Err(self.unwritable(value.describe())),
        }
        Ok(())
    }

    fn at(&mut self, name: impl FnOnce() -> String, value: &'v Value) -> Result<()> {
        self.place.push(name());
        self.value(value)?;
        self.place.pop();
        Ok(())
    }

    fn items(&mut self, items: &'v [Value]) -> Result<()> {
        self.program.push(b'(');
        for (i, item) in items.iter().enumerate() {
            self.at(|| format!("[{i}]"), item)?;
        }
        self.program.push(b'e');
        Ok(())
    }

    fn dict(&mut self, dict: &'v Dict) -> Result<()> {
        if dict.is_ordered {
            self.global("collections", "OrderedDict");
            self.program.extend(*b")R");
        } else {
            self.program.push(b'}');
        }
        self.program.push(b'(');
        for (key, value) in &dict.entries {
            if !matches!(
                key,
                Value::None
                    | Value::Bool(_)
                    | Value::Int(_)
                    | Value::Float(_)
                    | Value::Str(_)
                    | Value::Tuple(_)
            ) {
                return Err(self.unwritable(format!("{} as a key", key.describe())));
            }
            let name = || key.as_str().map_or_else(|| key.describe(), str::to_owned);
            self.at(name, key)?;
            self.at(name, value)?;
        }
        self.program.push(b'u');
        // Only an OrderedDict may have attributes where Python loads weights only.
        if dict.is_ordered && dict.attributes != Value::None {
            self.at(|| "attributes".into(), &dict.attributes)?;
            self.program.push(b'b');
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &'v Tensor) -> Result<()> {
        let dtype = tensor.dtype();
        let class = dtype.storage_class();
        self.global(
            "torch._utils",
            if class.is_some() { "_rebuild_tensor_v2" } else { "_rebuild_tensor_v3" },
        );
        self.program.push(b'(');

        // The storage as it is, or where its length is no whole number of elements, the tensor's own part of it.
        let whole = tensor.storage().bytes();
        let as_is = whole.len().is_multiple_of(dtype.size()) && !tensor.shape().contains(&0);
        let identity = (tensor.storage().identity(), dtype);
        let number = match self.known.get(&identity) {
            Some(&number) if as_is => number,
            _ => {
                self.storages.push(if as_is { Cow::Borrowed(whole) } else { tensor.to_contiguous() });
                if as_is {
                    self.known.insert(identity, self.storages.len() - 1);
                }
                self.storages.len() - 1
            }
        };
        let bytes = self.storages[number].len();
        self.program.push(b'(');
        self.text("storage")?;
        match class {
            Some(class) => {
                self.global("torch", class);
                self.text(&number.to_string())?;
                self.text("cpu")?;
                self.int((bytes / dtype.size()) as i64);
            }
            None => {
                self.global("torch.storage", "UntypedStorage");
                self.text(&number.to_string())?;
                self.text("cpu")?;
                self.int(bytes as i64);
            }
        }
        self.program.extend(*b"tQ");

        let contiguous = crate::tensor::contiguous_strides(tensor.shape());
        let strides = if as_is { Some(tensor.strides().to_vec()) } else { contiguous };
        let strides = strides.ok_or_else(|| self.unwritable("a shape this large"))?;
        self.int(if as_is { tensor.offset() as i64 } else { 0 });
        for sizes in [tensor.shape(), &strides] {
            self.program.push(b'(');
            for &size in sizes {
                self.int(size as i64);
            }
            self.program.push(b't');
        }
        self.program.push(0x89);
        self.global("collections", "OrderedDict");
        self.program.extend(*b")R");
        if class.is_none() {
            self.global("torch", dtype.torch_name());
        }
        self.program.extend(*b"tR");
        Ok(())
    }

    fn int(&mut self, number: i64) {
        if let Ok(byte) = u8::try_from(number) {
            self.program.extend([b'K', byte]);
        } else if let Ok(short) = u16::try_from(number) {
            self.program.push(b'M');
            self.program.extend(short.to_le_bytes());
        } else if let Ok(int) = i32::try_from(number) {
            self.program.push(b'J');
            self.program.extend(int.to_le_bytes());
        } else {
            self.program.extend([0x8a, 8]);
            self.program.extend(number.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let len = u32::try_from(text.len()).map_err(|_| self.unwritable("a text this long"))?;
        self.program.push(b'X');
        self.program.extend(len.to_le_bytes());
        self.program.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn global(&mut self, module: &'static str, name: &'static str) {
        if let Some(&slot) = self.globals.get(&(module, name)) {
            self.program.extend([b'h', slot]);
            return;
        }
        // There are fewer names to write than slots, see the callers.
        let slot = self.globals.len() as u8;
        self.globals.insert((module, name), slot);
        self.program.push(b'c');
        self.program.extend_from_slice(format!("{module}\n{name}\n").as_bytes());
        self.program.extend([b'q', slot]);
    }

    fn write(&self, path: &Path, out: &mut (impl Write + Seek)) -> Result<()> {
        let mut zip = ZipWriter::new(out);
        // A fingerprint of all that is written: torch wants forty digits, ours are a function of the contents.
        let mut id = Fingerprint::default();
        id.take(&self.program);
        let mut record = |name: &str, bytes: &[u8]| -> std::io::Result<()> {
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .with_alignment(64)
                .large_file(bytes.len() >= u32::MAX as usize);
            zip.start_file(format!("{FOLDER}/{name}"), options)?;
            zip.write_all(bytes)
        };
        let mut all = || {
            record("data.pkl", &self.program)?;
            record(".format_version", b"1")?;
            record(".storage_alignment", b"64")?;
            record("byteorder", b"little")?;
            for (number, bytes) in self.storages.iter().enumerate() {
                id.take(bytes);
                record(&format!("data/{number}"), bytes)?;
            }
            record("version", b"3\n")?;
            record(".data/serialization_id", id.digits().as_bytes())
        };
        all().map_err(Error::io(path, "writing"))?;
        zip.finish().map_err(|e| Error::io(path, "writing")(e.into()))?;
        Ok(())
    }
}

/// FNV-1a over 8-byte words: it tells files apart, it protects from nobody.
struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn take(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let rest = rest.iter().map(|&byte| u64::from(byte));
        for word in words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest) {
            self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn digits(&self) -> String {
        format!("{:020}{:020}", self.0, self.0.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
