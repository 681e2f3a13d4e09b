//! Conditional requests: pages that browsers poll while something changes are rendered again only
//! if they differ.

use std::io;
use std::time::SystemTime;

use crate::VERSION;
use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Request;
use crate::cgi::serve::{UserCall, View};
use crate::config;
use crate::server::registry::Registry;
use crate::system::clock;
use crate::system::stamp::Stamps;

/// How long a page may show the same relative time ("2 minutes ago"), in seconds.
const PERIOD: i64 = 10;

/// Answers 304 if the caller has the current page; otherwise renders it, with an entity tag (RFC
/// 9110, section 8.8.3). Only for pages made of nothing but registry, configuration and template.
///
/// # Errors
/// Those of `make`.
pub fn unless_known<V: View>(
    call: &UserCall<'_>,
    make: impl FnOnce() -> Result<Reply, Refusal>,
) -> Result<Reply, Refusal> {
    // Before anything is read: if something changes meanwhile, the tag is merely out of date.
    let Some(tag) = stamps(call, V::TEMPLATE).ok().and_then(|stamps| stamps.digest(SystemTime::now())) else {
        return make();
    };
    if knows(call.request, &tag) {
        return Ok(Reply::not_modified(&tag));
    }
    let reply = make()?;
    Ok(if reply.status() == 200 { reply.tagged(&tag) } else { reply })
}

fn stamps(call: &UserCall<'_>, template: &str) -> io::Result<Stamps> {
    // Pages show relative times.
    let moment = clock::now().unix().div_euclid(PERIOD);
    let Request { path_and_query, format, .. } = call.request;
    let of = format!("{VERSION} {} {} {path_and_query} {format:?} {moment}", call.user, call.administrator);
    let mut stamps = Stamps::of(&of);
    for file in Registry::files(&call.config.general.registry_file) {
        stamps.add(&file)?;
    }
    for name in ["server.cfg", "common.cfg"] {
        stamps.add(&config::directory().join(name))?;
    }
    for name in ["layout.html", template] {
        stamps.add(&call.config.general.template_directory.join("page").join(name))?;
    }
    Ok(stamps)
}

/// Returns whether a request says that its sender has what the tag stands for (RFC 9110, section
/// 13.1.2). Apache's `mod_deflate` appends the compression to the tag.
fn knows(request: &Request, tag: &str) -> bool {
    let Some(known) = request.header("If-None-Match") else { return false };
    known.split(',').any(|one| {
        let one = one.trim().trim_start_matches("W/").trim_matches('"');
        ["", "-gzip", "-br"].iter().any(|suffix| one.strip_suffix(suffix) == Some(tag))
    })
}
