//! The key of this user, and the build that runs: what machine code in `.dlm` files is sealed with.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::artifact::seal::Seal;
use crate::import::FormatError;

/// The seal, if there is a key already.
#[cfg(feature = "cpu")]
pub fn known() -> Option<Seal> {
    Seal::read(&path()?, build()?).ok().flatten()
}

/// The seal; its key is made where there is none. `None` where the system has no place for it.
pub fn made() -> Result<Option<Seal>, FormatError> {
    let (Some(path), Some(build)) = (path(), build()) else { return Ok(None) };
    Seal::read_or_make(&path, build).map(Some)
}

/// `dlc/key` in the user's data folder (XDG Base Directory Specification).
fn path() -> Option<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::home_dir().map(|h| h.join(".local/share"));
    Some(data.or_else(home)?.join("dlc/key"))
}

/// The version, and the program file's size and time: another build may make other code.
fn build() -> Option<String> {
    let about = std::env::current_exe().and_then(|exe| Path::new(&exe).metadata()).ok()?;
    let time = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {} {}", env!("CARGO_PKG_VERSION"), about.len(), time.as_nanos()))
}
