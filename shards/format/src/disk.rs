//! Disk: the few calls that change what is on it, in one place, so that the tests can make each of them fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Makes a file that must not be there yet.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    faults::before("create")?;
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Writes all of `bytes`, in as many calls as it takes.
pub(crate) fn write_all(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let most = faults::most(bytes.len())?;
        match io::Write::write(&mut &*file, &bytes[..most]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until a file's bytes would outlive a power cut.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    faults::before("sync")?;
    file.sync_all()
}

/// Puts a file in the place of another.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    faults::before("rename")?;
    fs::rename(from, to)
}

/// Gives a file a second name.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    faults::before("link")?;
    fs::hard_link(from, to)
}

/// Waits until the names in a directory would outlive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    faults::before("sync_dir")?;
    File::open(dir)?.sync_all()
}

/// Takes a file away; one that is not there is none.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    faults::before("remove")?;
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(test))]
mod faults {
    use std::io;

    #[expect(clippy::unnecessary_wraps, reason = "the tests' twin fails")]
    pub fn before(_: &'static str) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the tests' twin fails")]
    pub fn most(len: usize) -> io::Result<usize> {
        Ok(len)
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
