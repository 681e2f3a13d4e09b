//! What the tests stand on: a real Apache with the shipped configuration, scripted nodes and mail servers, an HTTP client
//! that can misbehave.

pub mod apache;
pub mod browser;
pub mod http;
pub mod node;
pub mod portal;
pub mod signed;
pub mod smtp;
pub mod stage;

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer; `None` when the time is over.
pub fn eventually<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
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
