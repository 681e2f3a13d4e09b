//! Many hosts at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use crate::system::log::{self, Level};

/// How many hosts are talked to at a time. Each that hangs holds one place for the node's time limit.
const HOSTS_AT_A_TIME: usize = 100;

/// The stack of a thread that talks to a host.
const STACK: usize = 512 << 10;

/// Does `work` for each of `items`, many at a time; what comes of it goes through `take`, in this thread, one by one.
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
                        // The other side has failed and gone.
                        return;
                    }
                }
            };
            // Without a thread the others do its share.
            if let Err(error) = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, body) {
                log::event(Level::Warning, "thread.not-started", &[("why", &error)]);
            }
        }
        drop(done);
        // It owns the receiver and drops it when it fails: nobody waits for ever to send.
        results.into_iter().try_for_each(take)
    })
}
