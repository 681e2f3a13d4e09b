//! Talks to many hosts at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use crate::system::log::{self, Level};

/// How many hosts are called at a time. One that hangs occupies a place for the node time limit.
const HOSTS_AT_A_TIME: usize = 100;

/// The stack size of a thread that calls a host, in bytes.
const STACK: usize = 512 << 10;

/// Runs `work` for each of `items`, many at a time. The results go through `take` one by one, in
/// this thread.
///
/// # Errors
/// The first error of `take`.
pub(super) fn in_parallel<I: Sync, O: Send, E>(
    items: &[I],
    work: impl Fn(&I) -> O + Sync,
    take: impl FnMut(O) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let (done, results) = sync_channel(HOSTS_AT_A_TIME);
    std::thread::scope(|scope| {
        for _ in 0..HOSTS_AT_A_TIME.min(items.len()) {
            let (done, next, work) = (done.clone(), &next, &work);
            let body = move || {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if done.send(work(item)).is_err() {
                        // The receiver has failed and is gone.
                        return;
                    }
                }
            };
            // The other threads do its share.
            if let Err(error) = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, body) {
                log::event(Level::Warning, "thread.not-started", &[("why", &error)]);
            }
        }
        drop(done);
        // This owns the receiver and drops it on an error, so no sender blocks forever.
        results.into_iter().try_for_each(take)
    })
}
