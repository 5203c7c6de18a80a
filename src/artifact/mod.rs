//! Compiled models as files.

pub mod dlm;
pub mod map;
pub mod model_file;
