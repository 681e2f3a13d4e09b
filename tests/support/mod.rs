//! The test environment: a real Apache with the shipped configuration, scripted nodes and mail
//! servers, and an HTTP client that can misbehave.

pub mod apache;
pub mod browser;
pub mod checks;
pub mod healing;
pub mod http;
pub mod node;
pub mod page;
pub mod portal;
pub mod signed;
pub mod smtp;
pub mod stage;
pub mod tls;
pub mod visited;

use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Polls until there is an answer; `None` when the time is up.
pub fn eventually<T>(limit: Duration, mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = poll() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// All endpoints, of both halves.
pub fn endpoints() -> impl Iterator<Item = &'static vgrid::cgi::policy::Endpoint> {
    vgrid::server::endpoints::ENDPOINTS.iter().chain(vgrid::node::endpoints::ENDPOINTS)
}

/// Calls a function from many threads at once, with numbers from 0. Returns the results in order.
pub fn at_once<T: Send>(many: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(many);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..many)
            .map(|n| {
                let (start, act) = (&start, &act);
                scope.spawn(move || {
                    start.wait();
                    act(n)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a result")).collect()
    })
}

/// Locks a mutex. A test that failed while it held the lock must not hide why by a second panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This machine's name, as it stands in the pool.
pub fn own_name() -> String {
    nix::unistd::gethostname().expect("a host name").to_string_lossy().to_lowercase()
}
