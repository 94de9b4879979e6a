use std::path::PathBuf;
use std::time::Instant;

use beit_torchfile::{Object, TorchFile};

/// Loads a full-size DALL-E module from `$BEIT_DALLE/<name>`, 215 MB of weights that no package carries.
fn load(name: &str) -> Option<(TorchFile, f64)> {
    let folder = PathBuf::from(std::env::var_os("BEIT_DALLE").or_else(|| {
        println!("skipped: set BEIT_DALLE to a folder with a full-size encoder.pkl");
        None
    })?);
    let start = Instant::now();
    let file = TorchFile::open(folder.join(name)).unwrap();
    Some((file, start.elapsed().as_secs_f64()))
}

#[test]
fn a_full_size_encoder_is_read_without_copies() {
    let Some((file, seconds)) = load("encoder.pkl") else { return };
    let encoder: &Object = file.root.as_object().unwrap();
    let (parameters, held) = crate::memory::peak(|| encoder.named_parameters(&file.path).unwrap());
    let elements: usize = parameters.iter().map(|(_, tensor)| tensor.numel()).sum();
    assert_eq!(elements, 53_786_240);
    assert!(held < 1 << 20, "naming the parameters held {held} bytes");
    println!("{}: {:?} container, {seconds:.3} s", file.path.display(), file.container);
}
