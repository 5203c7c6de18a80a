//! How long each dispatch takes, by the device's own clock.
//!
//! Each dispatch has a pass of its own, at whose begin and end the device writes down the time. A few
//! thousand fit into one set of such queries; then they are read, and the next ones follow.

use std::time::Duration;

use super::device::Device;
use super::session::error;
use super::transfer;
use crate::base::diag::Diagnostic;
use crate::schedule::program::LaunchId;

/// Dispatches that are timed before times are read: two queries each.
const MOST: u32 = wgpu::QUERY_SET_MAX_QUERIES / 2;
/// Bytes of the two times of a dispatch.
const PAIR: u64 = 2 * wgpu::QUERY_SIZE as u64;

/// Commands whose dispatches are timed.
pub struct Clock<'a> {
    device: &'a Device,
    queries: wgpu::QuerySet,
    times: wgpu::Buffer,
    pub encoder: wgpu::CommandEncoder,
    /// What has been encoded since times were read.
    launches: Vec<LaunchId>,
}

impl Clock<'_> {
    /// E0869 where the device has no clock.
    pub fn new(device: &Device) -> Result<Clock<'_>, Box<Diagnostic>> {
        let (wgpu, name) = (&device.device, &device.adapter.name);
        if !wgpu.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let message = format!("the adapter `{name}` does not say how long a launch takes");
            let help = "`dlc bench` without `--profile` measures whole runs";
            return Err(Box::new(Diagnostic::error("E0869", None, message).help(help)));
        }
        let made = device.checked(|| Clock {
            device,
            queries: wgpu.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("times"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * MOST,
            }),
            times: wgpu.create_buffer(&wgpu::BufferDescriptor {
                label: Some("times"),
                size: MOST as u64 * PAIR,
                usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
            encoder: wgpu.create_command_encoder(&Default::default()),
            launches: vec![],
        });
        made.map_err(|e| error("E0866", format!("the GPU: {e}")))
    }

    /// Whether the next dispatch has to wait for [`Clock::read`].
    pub fn is_full(&self) -> bool {
        self.launches.len() as u32 == MOST
    }

    /// A pass for one dispatch.
    pub fn pass(&mut self, launch: LaunchId) -> wgpu::ComputePass<'_> {
        let first = 2 * self.launches.len() as u32;
        self.launches.push(launch);
        self.encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                query_set: &self.queries,
                beginning_of_pass_write_index: Some(first),
                end_of_pass_write_index: Some(first + 1),
            }),
        })
    }

    /// Lets the device compute what was encoded, and says what each dispatch took.
    pub fn read(&mut self, into: &mut Vec<(LaunchId, Duration)>) -> Result<(), Box<Diagnostic>> {
        let count = self.launches.len();
        let wgpu = &self.device.device;
        let next = wgpu.create_command_encoder(&Default::default());
        let mut encoder = std::mem::replace(&mut self.encoder, next);
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..2 * count as u32, &self.times, 0);
        }
        self.device.queue.submit([encoder.finish()]);
        let bytes = transfer::read(self.device, &self.times, 0, count as u64 * PAIR)?;
        let period = self.device.queue.get_timestamp_period() as f64;
        let ticks = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("of eight bytes"));
        for (launch, pair) in self.launches.drain(..).zip(bytes.chunks_exact(PAIR as usize)) {
            let (begin, end) = pair.split_at(PAIR as usize / 2);
            let passed = ticks(end).saturating_sub(ticks(begin)) as f64 * period;
            into.push((launch, Duration::from_nanos(passed as u64)));
        }
        Ok(())
    }
}
