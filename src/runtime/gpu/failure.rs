//! Errors that a driver reports on its own, outside of any call: kept until the next call, which returns them.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Of one device; copies share what they hold.
#[derive(Clone, Default)]
pub struct Failure {
    /// A lost device does not come back.
    lost: Arc<OnceLock<String>>,
    /// The first other error that nobody has seen yet.
    error: Arc<Mutex<Option<String>>>,
}

impl Failure {
    /// Without this, wgpu would panic.
    pub fn listen(&self, device: &wgpu::Device) {
        let own = self.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            own.slot().get_or_insert(error.to_string());
        }));
        let own = self.clone();
        device.set_device_lost_callback(move |reason, message| {
            let reason = match reason {
                wgpu::DeviceLostReason::Unknown => "the device was lost",
                wgpu::DeviceLostReason::Destroyed => "the device was destroyed",
            };
            let message = message.trim();
            let colon = if message.is_empty() { "" } else { ": " };
            // A second loss says nothing new.
            let _ = own.lost.set(format!("{reason}{colon}{message}"));
        });
    }

    /// What the driver said and nobody has seen; of a lost device, that it is lost.
    pub fn take(&self) -> Option<String> {
        let error = self.slot().take();
        self.lost.get().cloned().or(error)
    }

    /// Notes that the device is lost, where the driver says so by other ways.
    pub fn lose(&self) -> String {
        self.lost.get_or_init(|| "the device was lost".into()).clone()
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Nothing panics while the lock is held.
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
