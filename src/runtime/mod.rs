//! Running Programs: buffers, sessions, threads.
//!
//! [`layout`] checks a Program once, so that running it needs no more checks. [`cpu`] runs machine
//! code in a session whose buffers are bound beforehand; [`interpreter`] runs the same Program
//! through the kernel interpreter. [`dispatch`] says what compute shaders bind; `gpu` runs them.

#[cfg(feature = "cpu")]
pub mod buffer;
#[cfg(feature = "cpu")]
pub mod cpu;
pub mod dispatch;
#[cfg(feature = "cpu")]
mod execute;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod interpreter;
pub mod keep;
pub mod layout;
pub mod pack;
#[cfg(feature = "cpu")]
pub mod peak;
pub mod pool;

use crate::base::diag::Diagnostic;
use crate::base::tensor::AlignedBytes;
use crate::base::{DType, Tensor};
use crate::schedule::program::Port;

/// Why a Program cannot run, or an input cannot be bound.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    /// A bug of dlc: the Program breaks a rule that its makers keep.
    #[error("the program is not well formed: {0}")]
    Program(String),
    /// A bug of dlc: a kernel that cannot be compiled or run.
    #[error("{0}")]
    Kernel(String),
    #[error("not enough memory: {bytes} bytes for {what}")]
    Memory { what: String, bytes: u64 },
    /// The system refused memory for machine code.
    #[error("{0}")]
    Code(String),
    #[error("{what} `{name}` is {dtype}{shape:?}, {want} bytes, but {got} bytes were given")]
    Bytes {
        what: &'static str,
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        want: usize,
        got: usize,
    },
}

impl RunError {
    pub fn diagnostic(&self) -> Diagnostic {
        let code = match self {
            RunError::Program(_) => "E0851",
            RunError::Kernel(_) => "E0852",
            RunError::Memory { .. } | RunError::Code(_) => "E0853",
            RunError::Bytes { .. } => "E0854",
        };
        Diagnostic::error(code, None, self.to_string())
    }
}

fn check_len(what: &'static str, port: &Port, got: usize) -> Result<(), RunError> {
    let want = layout::byte_len(port.dtype, &port.shape).unwrap_or(u64::MAX) as usize;
    if want == got {
        return Ok(());
    }
    let (name, dtype, shape) = (port.name.to_string(), port.dtype, port.shape.clone());
    Err(RunError::Bytes { what, name, dtype, shape, want, got })
}

fn tensor_of(port: &Port, bytes: &[u8]) -> Tensor {
    let mut bytes = AlignedBytes::copy_of(bytes);
    if port.dtype == DType::Bool {
        // A state may hold what its caller put there.
        bytes.as_mut().iter_mut().for_each(|b| *b = (*b != 0) as u8);
    }
    Tensor::from_bytes(port.dtype, &port.shape, bytes).expect("a port's buffer has the port's size")
}
