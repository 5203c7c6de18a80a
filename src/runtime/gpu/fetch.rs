//! Results on their way back from a device.
//!
//! A [`Fetch`] is queued behind the run that makes the result, and before whatever is submitted
//! later; so the caller may submit more and do other work, and waits for that run alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::device::Device;
use super::pack::narrowed;
use super::session::{Compiled, Session, error};
use crate::base::Tensor;
use crate::base::diag::Diagnostic;
use crate::runtime::dispatch::port_bytes;
use crate::runtime::tensor_of;
use crate::schedule::program::Port;

/// How long a callback may take after its submission is done.
const PATIENCE: Duration = Duration::from_secs(10);

/// A result that was asked for.
pub struct Fetch {
    device: Arc<Device>,
    port: Port,
    half: bool,
    /// None where there are no bytes to copy.
    copy: Option<Copy>,
}

struct Copy {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: Receiver<Result<(), wgpu::BufferAsyncError>>,
}

/// A value on a device, for other sessions there.
#[derive(Clone)]
pub struct Resident(pub(super) wgpu::Buffer);

fn failed(e: impl std::fmt::Display) -> Box<Diagnostic> {
    error("E0866", format!("reading results from the GPU: {e}"))
}

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
        let device = self.compiled.device.clone();
        let port = self.compiled.program.outputs[i].clone();
        let half = self.compiled.half;
        let bytes = port_bytes(&port, half).next_multiple_of(4);
        if bytes == 0 {
            return Ok(Fetch { device, port, half, copy: None });
        }
        let Resident(from) = self.resident(i);
        let queued = device.checked(|| {
            let staging = device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("results"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = device.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(&from, 0, &staging, 0, bytes);
            let submission = device.queue.submit([encoder.finish()]);
            (staging, submission)
        });
        let (staging, submission) = queued.map_err(failed)?;
        let (send, mapped) = channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // Nobody listens where the run failed meanwhile.
            let _ = send.send(result);
        });
        Ok(Fetch { device, port, half, copy: Some(Copy { staging, submission, mapped }) })
    }
}

impl Fetch {
    /// Waits for it.
    pub fn take(self) -> Result<Tensor, Box<Diagnostic>> {
        let Fetch { device, port, half, copy } = self;
        let Some(Copy { staging, submission, mapped }) = copy else {
            return Ok(tensor_of(&port, &[]));
        };
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        device.device.poll(wait).map_err(failed)?;
        // Another thread's poll may be about to say so.
        match mapped.recv_timeout(PATIENCE) {
            Ok(result) => result.map_err(failed)?,
            Err(_) => return Err(failed("the device was lost")),
        }
        let view = staging.slice(..).get_mapped_range().map_err(failed)?;
        let bytes = &view[..port_bytes(&port, half) as usize];
        Ok(tensor_of(&port, &narrowed(port.dtype, bytes, half)))
    }
}
