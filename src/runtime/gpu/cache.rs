//! Pipelines that the driver compiled, kept from one process to the next.

use std::sync::{Mutex, PoisonError};

use super::device::Device;
use crate::runtime::keep::Keep;

/// A driver's cache of one device, and what is kept of it.
pub struct Cache {
    pub pipelines: wgpu::PipelineCache,
    name: String,
    /// Bytes of it when it was loaded or stored last.
    kept: Mutex<usize>,
}

impl Cache {
    /// With what was kept, if it is of this adapter and undamaged. `None` where the driver has no such
    /// caches.
    pub fn open(device: &Device, keep: &dyn Keep) -> Option<Cache> {
        if !device.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let name = wgpu::util::pipeline_cache_key(&device.device.adapter_info())?;
        let kept = keep.load(&name);
        let with = |data: Option<&[u8]>| {
            let label = Some(&name[..]);
            let fallback = true;
            let of = wgpu::PipelineCacheDescriptor { label, data, fallback };
            // SAFETY: the bytes must come from `PipelineCache::get_data`. Nothing else is ever stored under
            // such a name, and what was not stored does not come back (`Keep`). That they are of this
            // adapter, this driver and this version of wgpu is checked by wgpu and by the driver, each of
            // which reads a header of its own; other bytes are an error or not used.
            let made = device.checked(|| unsafe { device.device.create_pipeline_cache(&of) });
            made.ok().map(|pipelines| (pipelines, data.map_or(0, <[u8]>::len)))
        };
        let (pipelines, kept) = with(kept.as_deref()).or_else(|| with(None))?;
        Some(Cache { pipelines, name, kept: Mutex::new(kept) })
    }

    /// Stores what the driver has now, if it is more than what is kept.
    pub fn store(&self, keep: &dyn Keep) {
        let Some(data) = self.pipelines.get_data() else { return };
        // Nothing panics while the lock is held.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if data.len() != *kept {
            keep.store(&self.name, &data);
            *kept = data.len();
        }
    }
}
