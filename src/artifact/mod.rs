//! Compiled models as files.

#[cfg(feature = "cpu")]
pub mod code;
pub mod dlm;
pub mod kept;
pub mod map;
pub mod model_file;
pub mod seal;
