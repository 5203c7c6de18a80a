//! Programs on a GPU, through wgpu.
//!
//! [`device`] finds and opens an adapter; [`session`] binds a Program's buffers and dispatches to it;
//! [`fetch`] reads results back beside other work.

mod cache;
pub mod device;
mod failure;
pub mod fetch;
mod pipeline;
mod selftest;
pub mod session;
mod timing;
mod transfer;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The result of a future that the native backends have ready, or that a poll of the device makes
/// ready.
fn ready<F: Future>(future: F, mut progress: impl FnMut()) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => progress(),
        }
    }
}
