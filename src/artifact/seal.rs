//! The seal: whose machine code is executed.
//!
//! A `.dlm` may hold machine code. It is executed only where a message authentication code (HMAC
//! with SHA-256, RFC 2104) over it, made with a key that this user alone has, shows that this user's
//! dlc wrote it. A file from elsewhere carries another seal or none, and is compiled anew.
//!
//! The library reads a key where its caller says; a caller without a key gets files without code.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::import::FormatError;

/// Bytes of keys and of authentication codes.
pub const BYTES: usize = 32;

/// A user's key, and the build of dlc that it vouches for.
#[derive(Clone)]
pub struct Seal {
    key: [u8; BYTES],
    build: String,
}

impl Seal {
    /// `build` tells apart builds of the compiler whose code may differ.
    pub fn new(key: [u8; BYTES], build: impl Into<String>) -> Seal {
        Seal { key, build: build.into() }
    }

    /// With the key of a file. `None` where there is no such file.
    pub fn read(path: &Path, build: impl Into<String>) -> Result<Option<Seal>, FormatError> {
        match fs::read(path) {
            Ok(bytes) => {
                private(path)?;
                let key = bytes.try_into().map_err(|_| FormatError::Malformed {
                    format: "a key file",
                    why: format!("`{}` does not hold {BYTES} bytes", path.display()),
                })?;
                Ok(Some(Seal::new(key, build)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(FormatError::system("read", path, e)),
        }
    }

    /// With the key of a file, which is made of random bytes where it does not exist: for this user
    /// alone to read, and whole or not at all.
    pub fn read_or_make(path: &Path, build: impl Into<String>) -> Result<Seal, FormatError> {
        let build = build.into();
        if let Some(seal) = Seal::read(path, &*build)? {
            return Ok(seal);
        }
        make(path).map_err(|e| FormatError::system("write", path, e))?;
        // Another process may have been first: its key is this user's too.
        let made = Seal::read(path, build)?;
        made.ok_or_else(|| FormatError::system("read", path, io::ErrorKind::NotFound.into()))
    }

    /// The authentication code of several texts; their lengths are part of it.
    pub fn sign(&self, texts: &[&[u8]]) -> [u8; BYTES] {
        self.mac(texts).finalize().into_bytes().into()
    }

    /// Whether this is the authentication code of the texts; takes as long for every wrong one.
    pub fn vouches(&self, texts: &[&[u8]], code: &[u8]) -> bool {
        self.mac(texts).verify_slice(code).is_ok()
    }

    fn mac(&self, texts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.key).expect("HMAC takes keys of every length");
        for text in [self.build.as_bytes()].iter().chain(texts) {
            mac.update(&(text.len() as u64).to_le_bytes());
            mac.update(text);
        }
        mac
    }
}

/// A key that others can read vouches for nothing.
#[cfg(unix)]
fn private(path: &Path) -> Result<(), FormatError> {
    use std::os::unix::fs::PermissionsExt;
    let about = fs::metadata(path).map_err(|e| FormatError::system("read", path, e))?;
    match about.permissions().mode() & 0o077 {
        0 => Ok(()),
        _ => Err(FormatError::Malformed {
            format: "a key file",
            why: format!("others than its owner may read or write `{}`", path.display()),
        }),
    }
}

#[cfg(not(unix))]
fn private(_: &Path) -> Result<(), FormatError> {
    Ok(())
}

fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut key = [0; BYTES];
    getrandom::fill(&mut key).map_err(|e| io::Error::other(e.to_string()))?;
    // Temporary files are private by default, and stay so under the new name.
    let mut file = tempfile::Builder::new().prefix(".dlc-").tempfile_in(folder)?;
    file.write_all(&key)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(e) if e.error.kind() != io::ErrorKind::AlreadyExists => Err(e.error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/dlc/key");
        assert!(Seal::read(&path, "1").unwrap().is_none());
        let made = Seal::read_or_make(&path, "1").unwrap();
        let again = Seal::read_or_make(&path, "1").unwrap();
        assert_eq!(made.key, again.key);
        assert_ne!(made.key, [0; BYTES]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |m| fs::set_permissions(&path, fs::Permissions::from_mode(m)).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            mode(0o644);
            assert!(Seal::read(&path, "1").is_err());
            mode(0o600);
        }
        fs::write(&path, b"short").unwrap();
        assert!(Seal::read_or_make(&path, "1").is_err());
    }

    /// The value of another implementation: Python's `hmac`, over the lengths and the texts.
    #[test]
    fn seals_are_hmac_sha256() {
        let code = Seal::new([7; BYTES], "b").sign(&[b"one", b"two"]);
        let hex: String = code.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "badab55f79a7826b8f20f7ea4026b7fe9d8aac3f106579c18a305d17f807ced4");
    }

    #[test]
    fn a_seal_depends_on_everything() {
        let seal = Seal::new([1; BYTES], "a");
        let code = seal.sign(&[b"12", b"3"]);
        assert!(seal.vouches(&[b"12", b"3"], &code));
        assert!(!seal.vouches(&[b"1", b"23"], &code));
        assert!(!seal.vouches(&[b"12", b"3"], &code[1..]));
        assert!(!Seal::new([2; BYTES], "a").vouches(&[b"12", b"3"], &code));
        assert!(!Seal::new([1; BYTES], "b").vouches(&[b"12", b"3"], &code));
    }
}
