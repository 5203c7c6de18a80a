//! A folder of files that dlc writes and reads again, each under this user's seal.
//!
//! A file is an authentication code, then the bytes. It appears whole or not at all; one that is damaged, from
//! elsewhere, from another build of dlc or too large counts as none.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use super::seal::{BYTES, Seal};
use crate::runtime::keep::Keep;

/// Bytes of a file.
const MOST: u64 = 64 << 20;

pub struct Folder {
    path: PathBuf,
    seal: Seal,
}

impl Folder {
    /// The folder is made when something is stored.
    pub fn new(path: PathBuf, seal: Seal) -> Folder {
        Folder { path, seal }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let mut file = tempfile::Builder::new().prefix(".dlc-").tempfile_in(&self.path)?;
        file.write_all(&self.seal.sign(&[name.as_bytes(), bytes]))?;
        file.write_all(bytes)?;
        file.persist(self.path.join(name))?;
        Ok(())
    }
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Folder({})", self.path.display())
    }
}

impl Keep for Folder {
    fn load(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path.join(name);
        if fs::metadata(&path).ok()?.len() > MOST {
            return None;
        }
        let mut file = fs::read(path).ok()?;
        let (code, bytes) = file.split_at_checked(BYTES)?;
        if !self.seal.vouches(&[name.as_bytes(), bytes], code) {
            return None;
        }
        file.drain(..BYTES);
        Some(file)
    }

    /// What has grown too large is dropped, so that it begins anew.
    fn store(&self, name: &str, bytes: &[u8]) {
        // The next start takes longer where this fails, and that is all.
        let _ = match bytes.len() as u64 + BYTES as u64 > MOST {
            true => fs::remove_file(self.path.join(name)),
            false => self.write(name, bytes),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &std::path::Path, key: u8) -> Folder {
        Folder::new(path.join("cache/dlc"), Seal::new([key; BYTES], "test"))
    }

    #[test]
    fn what_is_stored_comes_back() {
        let at = tempfile::tempdir().unwrap();
        let own = folder(at.path(), 1);
        assert_eq!(own.load("a"), None);
        own.store("a", b"one");
        own.store("b", b"");
        assert_eq!(own.load("a").unwrap(), b"one");
        assert_eq!(own.load("b").unwrap(), b"");
        own.store("a", b"two and more");
        assert_eq!(own.load("a").unwrap(), b"two and more");
        assert_eq!(fs::read_dir(at.path().join("cache/dlc")).unwrap().count(), 2);
    }

    #[test]
    fn damaged_foreign_and_large_files_count_as_none() {
        let at = tempfile::tempdir().unwrap();
        let own = folder(at.path(), 1);
        own.store("a", b"some bytes");
        assert_eq!(folder(at.path(), 2).load("a"), None);
        let path = at.path().join("cache/dlc/a");
        let good = fs::read(&path).unwrap();
        fs::write(path.with_file_name("b"), &good).unwrap();
        assert_eq!(own.load("b"), None);
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(own.load("a"), None);
            fs::write(&path, &good[..i]).unwrap();
            assert_eq!(own.load("a"), None);
        }
        fs::File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert_eq!(own.load("a"), None);
        own.store("a", &vec![0; MOST as usize]);
        assert!(!path.exists());
    }
}
