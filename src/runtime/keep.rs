//! What outlives a process: bytes that a driver made and wants to see again.

use std::fmt::Debug;

/// Keeps bytes by name. Only bytes that [`Keep::store`] was given come back from [`Keep::load`]: whoever
/// implements this vouches for it, since drivers do not check what they are given.
pub trait Keep: Debug + Send + Sync {
    /// `None` where nothing was kept, or where it is damaged.
    fn load(&self, name: &str) -> Option<Vec<u8>>;
    /// Nothing is lost but time where this fails.
    fn store(&self, name: &str, bytes: &[u8]);
}
