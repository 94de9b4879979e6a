//! Where the NCCL plug-in is: `make nccl` builds it on a machine with CUDA, and no binary needs it.

use std::path::{Path, PathBuf};

/// Its file name.
const FILE: &str = "libbeit_nccl.so";

/// The plug-in: what `BEIT_NCCL` names, or the first there is beside the program or in its `../lib/beit`.
///
/// A path that `BEIT_NCCL` names is given back as it is: if it doesn't load, the run fails and says why.
pub(crate) fn plugin() -> Option<PathBuf> {
    let named = std::env::var_os("BEIT_NCCL").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| beside(&std::env::current_exe().ok()?))
}

fn beside(program: &Path) -> Option<PathBuf> {
    let folder = program.parent()?;
    [folder.join(FILE), folder.join("../lib/beit").join(FILE)].into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plug_in_is_found_beside_the_program_and_in_its_library_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, lib) = (folder.path().join("bin"), folder.path().join("lib/beit"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(&lib).unwrap();
        let program = bin.join("beit-train");
        assert_eq!(beside(&program), None);
        std::fs::write(lib.join(FILE), "").unwrap();
        assert!(beside(&program).unwrap().ends_with("lib/beit/libbeit_nccl.so"));
        std::fs::write(bin.join(FILE), "").unwrap();
        assert_eq!(beside(&program).unwrap(), bin.join(FILE));
    }
}
