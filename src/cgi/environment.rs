//! Validates the bytes that Apache passes (RFC 3875) before the `cgi` crate reads them. That crate
//! panics on text that isn't UTF-8, on unknown protocols, on odd methods, headers and addresses,
//! and on a truncated body, and it allocates whatever CONTENT_LENGTH says. All that it reads is in
//! the functions `handle_with_io` and `parse_request` of its version 0.8.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use super::policy::Endpoint;
use super::reply::Refusal;

/// How much of an unwanted body is read, in bytes; more than Apache accepts as vGrid configures it.
const UNWANTED: usize = 2 << 20;

/// Checks the environment and reads the body, then puts the body back as standard input for the
/// `cgi` crate. When this refuses, nothing has been done yet.
pub fn meet(endpoint: &Endpoint) -> Result<(), Refusal> {
    check(endpoint).inspect_err(|_| discard_body())
}

fn check(endpoint: &Endpoint) -> Result<(), Refusal> {
    for (name, value) in std::env::vars_os() {
        if name.to_str().is_none() || value.to_str().is_none() {
            return Err(Refusal::bad_request(format!(
                "The request holds bytes that are not UTF-8 ({}).",
                part_of_request(name.as_bytes())
            )));
        }
    }
    let get = |name: &str| std::env::var(name).unwrap_or_default();

    let method = get("REQUEST_METHOD");
    if !endpoint.methods().contains(&method.as_str()) {
        return Err(Refusal::method_not_allowed(endpoint.methods()));
    }
    // Here and below, empty is not the same as absent: a program can be tried by hand without these
    // variables.
    let protocol = std::env::var("SERVER_PROTOCOL").ok();
    if !matches!(protocol.as_deref(), None | Some("HTTP/1.0" | "HTTP/1.1" | "HTTP/2.0")) {
        return Err(Refusal::bad_request("This version of HTTP is not known here."));
    }
    if address().parse::<http::Uri>().is_err() {
        return Err(Refusal::bad_request("The address of the request is not well-formed."));
    }
    check_values()?;
    check_headers()?;
    // A program serves exactly one address: below it, the relative links of its page would be
    // wrong.
    if !get("PATH_INFO").is_empty() {
        return Err(Refusal::not_found("There is nothing at this address."));
    }
    let body = read_body(endpoint, &method, &get("CONTENT_LENGTH"), &get("HTTP_TRANSFER_ENCODING"))?;
    replace_input(&body).map_err(|error| Refusal::internal(format!("the body can't be kept: {error}")))
}

/// The variables that the `cgi` crate copies into headers unchanged.
const COPIED: [&str; 20] = [
    "AUTH_TYPE",
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "GATEWAY_INTERFACE",
    "PATH_INFO",
    "PATH_TRANSLATED",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REMOTE_HOST",
    "REMOTE_IDENT",
    "REMOTE_USER",
    "REQUEST_METHOD",
    "REQUEST_URI",
    "REQUEST_URL",
    "SCRIPT_NAME",
    "SCRIPT_URI",
    "SCRIPT_URL",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
];

/// The most request headers accepted. Apache allows 100 unless `LimitRequestFields` says otherwise;
/// beyond 24,576 the `http` crate's map is full, and the `cgi` crate panics.
const MOST_HEADERS: usize = 1000;

/// Returns the request's address as the `cgi` crate assembles it.
fn address() -> String {
    if let Ok(uri) = std::env::var("REQUEST_URI") {
        return uri;
    }
    let first = |name| std::env::var(name).ok();
    let mut address = first("SCRIPT_URI")
        .or_else(|| first("PATH_INFO"))
        .filter(|uri| !uri.is_empty())
        .unwrap_or_else(|| {
            std::env::current_exe().map_or_else(|_| String::new(), |path| path.to_string_lossy().into_owned())
        });
    if let Some(query) = first("QUERY_STRING").filter(|query| !query.is_empty()) {
        address.push('?');
        address.push_str(&query);
    }
    address
}

/// Refuses values that no header can hold, in every variable that the `cgi` crate makes a header of
/// and in every other one that comes from the client.
fn check_values() -> Result<(), Refusal> {
    const OF_REQUEST: [&str; 9] =
        ["HTTP_", "CONTENT_", "PATH_", "SCRIPT_", "QUERY_", "REMOTE_", "REQUEST_", "SERVER_", "AUTH_"];
    for (name, value) in std::env::vars() {
        let value = if COPIED.contains(&name.as_str()) { value.as_str() } else { value.trim() };
        let counts = COPIED.contains(&name.as_str()) || OF_REQUEST.iter().any(|part| name.starts_with(part));
        if counts && http::HeaderValue::from_str(value).is_err() {
            return Err(Refusal::bad_request(format!(
                "The request holds control characters ({}).",
                part_of_request(name.as_bytes())
            )));
        }
    }
    Ok(())
}

fn check_headers() -> Result<(), Refusal> {
    let mut count = 0;
    for (name, _) in std::env::vars() {
        let Some(header) = name.strip_prefix("HTTP_") else { continue };
        count += 1;
        if count > MOST_HEADERS {
            return Err(Refusal::new(431, format!("The request has more than {MOST_HEADERS} headers.")));
        }
        if http::HeaderName::try_from(header).is_err() {
            return Err(Refusal::bad_request("The request has a header without a proper name."));
        }
    }
    Ok(())
}

/// Returns the part of a request that a variable comes from, for a sentence.
fn part_of_request(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    match name.as_ref() {
        "QUERY_STRING" | "REQUEST_URI" | "PATH_INFO" | "SCRIPT_URI" | "SCRIPT_URL" | "PATH_TRANSLATED" => {
            "in its address".to_owned()
        }
        "REMOTE_USER" => "in the user name".to_owned(),
        name => match name.strip_prefix("HTTP_") {
            Some(header) => {
                format!("in the header {}", header.replace('_', "-").to_lowercase().escape_default())
            }
            None => "in its environment".to_owned(),
        },
    }
}

fn read_body(endpoint: &Endpoint, method: &str, length: &str, encoding: &str) -> Result<Vec<u8>, Refusal> {
    if length.is_empty() {
        // Without a length, the end of a body can't be distinguished from truncation.
        if method == "POST" || !encoding.is_empty() {
            return Err(Refusal::length_required());
        }
        return Ok(Vec::new());
    }
    if !length.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::bad_request("Content-Length is not a number."));
    }
    // It is all digits, so a number that does not fit is too large.
    let length = length.parse::<usize>().unwrap_or(usize::MAX);
    if length > endpoint.body_limit() {
        return Err(Refusal::too_large(endpoint.body_limit()));
    }
    let mut body = vec![0; length];
    let mut filled = 0;
    // Unbuffered, so that nothing is left behind in a buffer when standard input is replaced.
    let stdin = std::io::stdin();
    while filled < length {
        match nix::unistd::read(stdin.as_fd(), &mut body[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                return Err(Refusal::bad_request(format!("The body could not be read ({}).", error.desc())));
            }
        }
    }
    if filled < length {
        return Err(Refusal::bad_request(format!(
            "The body was cut off: {filled} of {length} bytes arrived. Nothing was done; send it again."
        )));
    }
    Ok(body)
}

/// Reads the rest of the body, if any: under mod_cgid, the answer of a program that exits with
/// unread input is cut off, however short both are.
fn discard_body() {
    let announced = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !announced("CONTENT_LENGTH") && !announced("HTTP_TRANSFER_ENCODING") {
        return;
    }
    let stdin = std::io::stdin();
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    while read < UNWANTED {
        match nix::unistd::read(stdin.as_fd(), &mut buffer) {
            Ok(n) if n > 0 => read += n,
            Err(nix::errno::Errno::EINTR) => {}
            _ => return,
        }
    }
}

/// Replaces standard input with `body`.
fn replace_input(body: &[u8]) -> std::io::Result<()> {
    use std::io::Seek as _;
    let memory = nix::sys::memfd::memfd_create(c"vgrid-body", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    file.write_all(body)?;
    file.rewind()?;
    nix::unistd::dup2_stdin(file)?;
    Ok(())
}
