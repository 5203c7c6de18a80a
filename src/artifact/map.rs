//! Files in memory without reading them: the only place that maps memory.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::base::tensor::SharedBytes;
use crate::import::{FormatError, read_file};

/// Maps a file; what is no regular file, or empty, is read instead.
///
/// A file that another program cuts short while it is mapped ends the process with a bus error, as
/// with every mapped file; dlc itself replaces files whole and never cuts one short.
pub fn map_file(path: &Path) -> Result<SharedBytes, FormatError> {
    let refused = |source| FormatError::System { action: "map", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(refused)?;
    let about = file.metadata().map_err(refused)?;
    if !about.is_file() || about.len() == 0 {
        return read_file(path);
    }
    // SAFETY: the map is private and read only, and lives as long as the bytes are shared. Rust's
    // rule that they never change is kept by dlc, which writes no file in place, and is asked of
    // the user for the time of the run.
    let map = unsafe { Mmap::map(&file) }.map_err(refused)?;
    Ok(Arc::new(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_files_and_reads_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"bytes").unwrap();
        assert_eq!((*map_file(&path).unwrap()).as_ref(), b"bytes");
        std::fs::write(&path, b"").unwrap();
        assert_eq!((*map_file(&path).unwrap()).as_ref(), b"");
        let error = map_file(&folder.path().join("b")).err().unwrap();
        assert_eq!((error.code(), error.exit_status()), ("E0901", 2));
    }
}
