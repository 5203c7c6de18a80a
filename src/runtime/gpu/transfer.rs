//! Bytes from a device.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::device::Device;
use super::session::error;
use crate::base::diag::Diagnostic;

/// Bytes of a buffer, once the device has computed everything that it was given.
pub fn read(
    device: &Device,
    buffer: &wgpu::Buffer,
    offset: u64,
    bytes: u64,
) -> Result<Vec<u8>, Box<Diagnostic>> {
    if bytes == 0 {
        return Ok(vec![]);
    }
    let failed = |e: String| error("E0866", format!("reading results from the GPU: {e}"));
    let size = bytes.next_multiple_of(4);
    let staging = device.checked(|| {
        let staging = device.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("results"),
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut encoder = device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, offset, &staging, 0, size);
        device.queue.submit([encoder.finish()]);
        staging
    });
    let staging = staging.map_err(failed)?;
    let (send, receive) = mpsc::channel();
    staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
        // The receiver waits below.
        let _ = send.send(result);
    });
    // Where several threads wait for a device, any of them may be the one that is to call back here, a moment
    // after this one has returned.
    let mapped = loop {
        device.wait().map_err(failed)?;
        match receive.recv_timeout(Duration::from_millis(100)) {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(failed(device.failure.lose())),
            Ok(mapped) => break mapped,
        }
    };
    mapped.map_err(|e| failed(e.to_string()))?;
    let mapped = staging.slice(..).get_mapped_range();
    let mapped = mapped.map_err(|e| failed(e.to_string()))?;
    Ok(mapped[..bytes as usize].to_vec())
}
