//! Bytes from a device.
//!
//! A [`Transfer`] is queued behind whatever the device was given before, and waits for that alone; so its
//! caller may submit more and do other work meanwhile.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::device::Device;
use super::session::error;
use crate::base::diag::Diagnostic;

/// Bytes on their way.
pub struct Transfer {
    bytes: u64,
    /// None where there are no bytes.
    copy: Option<Copy>,
}

struct Copy {
    staging: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
    mapped: Receiver<Result<(), wgpu::BufferAsyncError>>,
}

fn failed(e: impl std::fmt::Display) -> Box<Diagnostic> {
    error("E0866", format!("reading results from the GPU: {e}"))
}

/// Bytes of a buffer, once the device has computed everything that it was given.
pub fn read(
    device: &Device,
    buffer: &wgpu::Buffer,
    offset: u64,
    bytes: u64,
) -> Result<Vec<u8>, Box<Diagnostic>> {
    Transfer::begin(device, buffer, offset, bytes)?.take(device)
}

impl Transfer {
    pub fn begin(
        device: &Device,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Transfer, Box<Diagnostic>> {
        if bytes == 0 {
            return Ok(Transfer { bytes, copy: None });
        }
        let size = bytes.next_multiple_of(4);
        let queued = device.checked(|| {
            let staging = device.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("results"),
                size,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = device.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
            let submission = device.queue.submit([encoder.finish()]);
            (staging, submission)
        });
        let (staging, submission) = queued.map_err(failed)?;
        let (send, mapped) = channel();
        staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
            // Nobody listens where the run failed meanwhile.
            let _ = send.send(result);
        });
        Ok(Transfer { bytes, copy: Some(Copy { staging, submission, mapped }) })
    }

    /// Waits for them.
    pub fn take(self, device: &Device) -> Result<Vec<u8>, Box<Diagnostic>> {
        let Some(Copy { staging, submission, mapped }) = self.copy else { return Ok(vec![]) };
        // Where several threads wait for a device, any of them may be the one that is to call back here, a moment
        // after this one has returned.
        let mapped = loop {
            device.wait_for(Some(submission.clone())).map_err(failed)?;
            match mapped.recv_timeout(Duration::from_millis(100)) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(failed(device.failure.lose())),
                Ok(mapped) => break mapped,
            }
        };
        mapped.map_err(failed)?;
        let view = staging.slice(..).get_mapped_range().map_err(failed)?;
        Ok(view[..self.bytes as usize].to_vec())
    }
}
