//! The environment of a CGI program: whatever is in it, there is an answer and no panic.

use crate::support::portal::Portal;

/// The variables that the `cgi` crate turns into headers (`add_header`). It unwraps, so they must
/// be valid header values.
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

const SIGNED_IN: [(&str, &str); 2] = [("REMOTE_USER", "alice"), ("AUTH_TYPE", "Basic")];

#[track_caller]
fn refused(portal: &Portal, variables: &[(&str, &str)]) {
    let environment = [&SIGNED_IN[..], variables].concat();
    for program in ["user/list", "user/deploy", "internal/status", "node/info"] {
        let (status, text) = portal.run_directly(program, &environment, b"");
        assert!((400..500).contains(&status), "{program} with {variables:.60?}: {text}");
    }
}

#[test]
fn a_malformed_variable_is_refused_without_a_panic() {
    let portal = Portal::start();
    for variable in COPIED {
        // At the end too: the crate trims blanks only from headers.
        for value in ["a\nb", "a\u{1}", "a\u{7f}", "x\n", "\r"] {
            refused(&portal, &[(variable, value)]);
        }
    }
    for value in ["", "HTTP/0.9", "http/1.1", "HTTP/3", "HTTP/1.1 "] {
        refused(&portal, &[("SERVER_PROTOCOL", value)]);
    }
    for (variable, value) in
        [("HTTP_ACCEPT", "a\nb"), ("HTTP_", "x"), ("HTTP_A B", "x"), ("HTTP_\u{c4}", "x")]
    {
        refused(&portal, &[(variable, value)]);
    }
    for value in ["", "no uri", "http://", "http://[::1", &"x".repeat(100_000)] {
        refused(&portal, &[("REQUEST_URI", value)]);
    }
    let log = portal.own_log().unwrap_or_default();
    assert!(!log.contains("event=program.panicked"), "{log}");
}

#[test]
fn without_request_uri_its_substitutes_are_checked() {
    let portal = Portal::start();
    let run = |variables: &[(&str, &str)]| {
        portal.run_without("REQUEST_URI", "user/list", &[&SIGNED_IN[..], variables].concat())
    };
    assert_eq!(run(&[]).0, 200, "a program run by hand");
    assert_eq!(run(&[("SCRIPT_URI", "https://vgrid.example.org/cgi-bin/user/list")]).0, 200);
    for variables in [
        &[("SCRIPT_URI", "no uri")][..],
        &[("SCRIPT_URI", "http://[")],
        &[("SCRIPT_URI", "/x"), ("QUERY_STRING", "a b")],
        &[("QUERY_STRING", "\"<>")],
        &[("SCRIPT_URI", "\u{e9} ")],
    ] {
        let (status, text) = run(variables);
        assert_eq!(status, 400, "{variables:?}: {text}");
    }
    let log = portal.own_log().unwrap_or_default();
    assert!(!log.contains("event=program.panicked"), "{log}");
}

#[test]
fn too_many_headers_are_refused() {
    let portal = Portal::start();
    let names: Vec<String> = (0..40_000).map(|n| format!("HTTP_X{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    refused(&portal, &many);
}
