/// How much of a file is believed before it is refused, and which classes are known beside the built-in ones.
///
/// The defaults fit a BEiT-large checkpoint with its optimizer many times over. Memory spent on a file is at most
/// its own size plus 250 bytes for each of `max_objects` and 60 for each of `max_pickle_steps`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a whole file; it is read into memory.
    pub max_file_bytes: u64,
    /// Bytes of one pickle program, tensors' numbers not counted.
    pub max_pickle_bytes: usize,
    /// Instructions of one pickle program, and links that they copy.
    pub max_pickle_steps: usize,
    /// Values that one pickle program makes.
    pub max_objects: usize,
    /// Values inside values inside values.
    pub max_depth: usize,
    /// Bytes of a tensor that shows few stored numbers many times (`expand`, stride 0), once written out.
    pub max_expanded_bytes: usize,
    /// Further modules whose classes may appear as inert objects, for instance `timm.models`; a module's
    /// submodules are included.
    pub known_modules: Vec<String>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_file_bytes: 16 << 30,
            max_pickle_bytes: 64 << 20,
            max_pickle_steps: 5_000_000,
            max_objects: 1_000_000,
            max_depth: 500,
            max_expanded_bytes: 256 << 20,
            known_modules: Vec::new(),
        }
    }
}
