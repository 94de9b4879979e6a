use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{Error, Result};

/// Writes a file so that `path` holds either what it held before or all of the new bytes, whatever happens:
/// a temporary beside it, synced, renamed, the folder synced.
///
/// # Errors
/// [`Error::Io`]; the temporary is removed then
pub(crate) fn publish(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or_else(|| {
        Error::io(path, "finding a file name in the path")(io::ErrorKind::InvalidInput.into())
    })?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = folder.join(temporary);
    let written = write(path, &temporary, fill);
    if written.is_err() {
        // Nothing more can be done about a temporary that stays; the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io(path, "syncing the folder"))
}

fn write(path: &Path, temporary: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let file = File::create_new(temporary).map_err(Error::io(path, "creating a temporary beside it"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)?;
    out.flush().map_err(Error::io(path, "writing"))?;
    out.get_ref().sync_all().map_err(Error::io(path, "syncing"))?;
    fs::rename(temporary, path).map_err(Error::io(path, "renaming the finished file into place"))
}
