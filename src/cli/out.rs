//! Standard output: a reader that goes away is no error.

use std::io::{ErrorKind, Write};

use super::report::Failure;

pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::usage(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

pub fn text(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// One JSON document and a newline.
pub fn json(value: &serde_json::Value) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is printable");
    text.push('\n');
    bytes(text.as_bytes())
}
