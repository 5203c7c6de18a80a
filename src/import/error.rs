//! What can be wrong with a file of numbers, or with a number on the command line.
//!
//! Each variant has a stable code and one of two exit statuses: 2 where the system refused the file
//! or the call was wrong, 1 where the content is at fault.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::diag::Diagnostic;
use crate::base::{DType, codes};

#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The system did not open, read or write a file.
    #[error("cannot {action} `{}`: {source}", path.display())]
    System { action: &'static str, path: PathBuf, source: io::Error },
    /// The bytes are of another kind than they should be.
    #[error("this is not {format}: {why}")]
    Foreign { format: &'static str, why: String },
    /// The bytes end too early.
    #[error("{format} ends too early: it needs {needs} bytes and has {has}")]
    Truncated { format: &'static str, needs: u64, has: u64 },
    /// The bytes are of the right kind and do not make sense.
    #[error("{format} is damaged: {why}")]
    Malformed { format: &'static str, why: String },
    /// A type of element that dlc does not have.
    #[error("elements of type `{found}` are not supported")]
    Element { found: String, help: String },
    /// A number of elements or of axes beyond any limit.
    #[error("shape {shape} is too large")]
    Shape { shape: String },
    /// Bytes that do not fit the shape.
    #[error("{what} holds {has} bytes, and its shape needs {needs}")]
    Size { what: String, needs: u64, has: u64 },
    /// No entry of that name.
    #[error("there is no entry `{name}`")]
    Missing { name: String, close: Option<String>, all: Vec<String> },
    /// Several entries of one name.
    #[error("`{name}` occurs twice")]
    Duplicate { name: String },
    /// Contents that do not agree with the checksum that goes with them.
    #[error("`{name}` was altered: its content does not agree with its checksum")]
    Altered { name: String },
    /// A file of a version that this release does not read.
    #[error("{format} has version {found}, and this release reads version {reads}")]
    Version { format: &'static str, found: String, reads: String },
    /// More data than a stated bound.
    #[error("{what} would take {bytes} bytes, and the limit is {limit}")]
    Limit { what: String, bytes: u64, limit: u64 },
    /// Text that is not a value.
    #[error("`{text}` is not a value: {why}")]
    Literal { text: String, why: String },
    /// A number that its type cannot hold.
    #[error("`{text}` does not fit {dtype}")]
    Range { text: String, dtype: DType },
    /// A value of another type than is wanted.
    #[error("the value is {got}, and {wanted} is wanted")]
    Mismatch { wanted: String, got: String, help: Option<String> },
    /// A form that this release does not read yet.
    #[error("{what} is not supported yet")]
    Unsupported { what: String },
    /// An error inside a larger thing: a file, an entry of an archive.
    #[error("{place}: {inner}")]
    In { place: String, inner: Box<FormatError> },
}

impl FormatError {
    pub(crate) fn system(action: &'static str, path: &Path, source: io::Error) -> FormatError {
        FormatError::System { action, path: path.to_path_buf(), source }
    }

    pub(crate) fn malformed(format: &'static str, why: impl Into<String>) -> FormatError {
        FormatError::Malformed { format, why: why.into() }
    }

    pub(crate) fn literal(text: &str, why: impl Into<String>) -> FormatError {
        FormatError::Literal { text: shorten(text), why: why.into() }
    }

    pub(crate) fn shape(shape: &[usize]) -> FormatError {
        FormatError::Shape { shape: shorten(&format!("{shape:?}")) }
    }

    /// Says where the error is.
    pub fn within(self, place: impl Into<String>) -> FormatError {
        FormatError::In { place: place.into(), inner: Box::new(self) }
    }

    pub fn code(&self) -> &'static str {
        match self {
            FormatError::System { .. } => codes::FILE_SYSTEM,
            FormatError::Foreign { .. } => codes::FILE_KIND,
            FormatError::Truncated { .. } => codes::FILE_SHORT,
            FormatError::Malformed { .. } => codes::FILE_DAMAGED,
            FormatError::Element { .. } => codes::FILE_ELEMENT,
            FormatError::Shape { .. } => codes::FILE_SHAPE,
            FormatError::Size { .. } => codes::FILE_SIZE,
            FormatError::Missing { .. } => codes::FILE_ENTRY,
            FormatError::Duplicate { .. } => codes::FILE_TWICE,
            FormatError::Altered { .. } => codes::FILE_ALTERED,
            FormatError::Version { .. } => codes::FILE_VERSION,
            FormatError::Limit { .. } => codes::FILE_LIMIT,
            FormatError::Literal { .. } => codes::VALUE_TEXT,
            FormatError::Range { .. } => codes::VALUE_RANGE,
            FormatError::Mismatch { .. } => codes::VALUE_TYPE,
            FormatError::Unsupported { .. } => codes::VALUE_LATER,
            FormatError::In { inner, .. } => inner.code(),
        }
    }

    /// The exit status of the command line: 1 content, 2 the system or the call.
    pub fn exit_status(&self) -> u8 {
        match self {
            FormatError::System { .. } | FormatError::Unsupported { .. } => 2,
            FormatError::Foreign { .. }
            | FormatError::Truncated { .. }
            | FormatError::Malformed { .. }
            | FormatError::Element { .. }
            | FormatError::Shape { .. }
            | FormatError::Size { .. }
            | FormatError::Missing { .. }
            | FormatError::Duplicate { .. }
            | FormatError::Altered { .. }
            | FormatError::Version { .. }
            | FormatError::Limit { .. }
            | FormatError::Literal { .. }
            | FormatError::Range { .. }
            | FormatError::Mismatch { .. } => 1,
            FormatError::In { inner, .. } => inner.exit_status(),
        }
    }

    pub fn diagnostic(&self) -> Diagnostic {
        let mut d = Diagnostic::error(self.code(), None, self.to_string());
        if let Some(note) = self.note() {
            d = d.note(note);
        }
        if let Some(help) = self.help() {
            d = d.help(help);
        }
        d
    }

    fn note(&self) -> Option<String> {
        match self {
            FormatError::Missing { all, .. } => {
                let shown: Vec<String> = all.iter().take(20).map(|n| shorten(n)).collect();
                let rest = if all.len() > 20 { ", …" } else { "" };
                Some(format!("its entries are: {}{rest}", shown.join(", ")))
            }
            FormatError::In { inner, .. } => inner.note(),
            FormatError::System { .. }
            | FormatError::Foreign { .. }
            | FormatError::Truncated { .. }
            | FormatError::Malformed { .. }
            | FormatError::Element { .. }
            | FormatError::Shape { .. }
            | FormatError::Size { .. }
            | FormatError::Duplicate { .. }
            | FormatError::Altered { .. }
            | FormatError::Version { .. }
            | FormatError::Limit { .. }
            | FormatError::Literal { .. }
            | FormatError::Range { .. }
            | FormatError::Mismatch { .. }
            | FormatError::Unsupported { .. } => None,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            FormatError::Element { help, .. } => Some(help.clone()),
            FormatError::Mismatch { help, .. } => help.clone(),
            FormatError::Missing { close, .. } => {
                close.as_ref().map(|c| format!("did you mean `{c}`?"))
            }
            FormatError::Truncated { .. } => Some("copy or download the file again".into()),
            FormatError::Altered { .. } => Some("write the file again".into()),
            FormatError::Literal { .. } => Some(
                "a value is `@file.npy`, `@file.npz:key`, `f32[2,3]:1,2,3,4,5,6`, or plain numbers"
                    .into(),
            ),
            FormatError::In { inner, .. } => inner.help(),
            FormatError::System { .. }
            | FormatError::Foreign { .. }
            | FormatError::Malformed { .. }
            | FormatError::Shape { .. }
            | FormatError::Size { .. }
            | FormatError::Duplicate { .. }
            | FormatError::Version { .. }
            | FormatError::Limit { .. }
            | FormatError::Range { .. }
            | FormatError::Unsupported { .. } => None,
        }
    }
}

/// Foreign text in a message stays short, and on one line.
pub(crate) fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(60).flat_map(|c| c.escape_debug()).collect();
    if text.chars().nth(60).is_some() {
        out.push('…');
    }
    out
}
