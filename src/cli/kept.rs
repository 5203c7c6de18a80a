//! Where this user's dlc keeps what drivers compiled.

use std::path::PathBuf;
use std::sync::Arc;

use crate::artifact::kept::Folder;
use crate::runtime::keep::Keep;

/// `None` where the system has no place for it, or the user's key cannot be read.
pub fn folder() -> Option<Arc<dyn Keep>> {
    let seal = super::seal::made().ok().flatten()?;
    Some(Arc::new(Folder::new(path()?, seal)))
}

/// `dlc` in the user's cache folder (XDG Base Directory Specification).
fn path() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::home_dir().map(|h| h.join(".cache"));
    Some(cache.or_else(home)?.join("dlc"))
}
