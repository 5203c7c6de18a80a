//! Outputs of one session for others: read where they are, or asked for early and taken late.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::device::Device;
use super::session::{Compiled, Session};
use super::transfer::Transfer;
use crate::base::Tensor;
use crate::base::diag::Diagnostic;
use crate::runtime::dispatch::port_bytes;
use crate::runtime::pack::narrowed;
use crate::runtime::tensor_of;
use crate::schedule::program::Port;

/// A result that was asked for.
pub struct Fetch {
    device: Arc<Device>,
    port: Port,
    half: bool,
    transfer: Transfer,
}

/// A value on a device, for other sessions there.
#[derive(Clone)]
pub struct Resident(pub(super) wgpu::Buffer);

impl Session {
    /// A session that reads inputs where other sessions left them, by the input's number. Such an
    /// input is not to be set.
    pub fn reading(
        compiled: Arc<Compiled>,
        inputs: &BTreeMap<usize, Resident>,
    ) -> Result<Session, Box<Diagnostic>> {
        let shared = inputs.iter().map(|(i, Resident(buffer))| (1 + i, buffer.clone()));
        Session::sharing(compiled, &shared.collect())
    }

    /// Where an output is.
    pub fn resident(&self, i: usize) -> Resident {
        Resident(self.buffers[1 + self.compiled.program.inputs.len() + i].clone())
    }

    /// Asks for an output as the runs so far leave it.
    pub fn fetch(&self, i: usize) -> Result<Fetch, Box<Diagnostic>> {
        let (device, half) = (self.compiled.device.clone(), self.compiled.half);
        let port = self.compiled.program.outputs[i].clone();
        let Resident(from) = self.resident(i);
        let transfer = Transfer::begin(&device, &from, 0, port_bytes(&port, half))?;
        Ok(Fetch { device, port, half, transfer })
    }
}

impl Fetch {
    /// Waits for it.
    pub fn take(self) -> Result<Tensor, Box<Diagnostic>> {
        let Fetch { device, port, half, transfer } = self;
        let bytes = transfer.take(&device)?;
        Ok(tensor_of(&port, &narrowed(port.dtype, &bytes, half)))
    }
}
