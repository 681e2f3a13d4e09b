//! The table of all endpoints: which methods, which body, who. Checked by [`super::serve`] before a
//! handler runs.

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Anybody whom Apache has authenticated.
    User,
    /// The owner of the machine that the request names, or an administrator. The handler gets the machine
    /// only through [`permits`].
    Owner,
    /// Administrators alone.
    Administrator,
    /// The server, known by its address and its signature.
    Server,
    /// A node, known by its signature and by having the address of the machine's host.
    Node,
}

/// What an endpoint takes.
#[derive(Debug)]
pub struct Endpoint {
    /// The path below `cgi-bin/`, which is the path in `bin/`, too.
    pub name: &'static str,
    /// Who may call it.
    pub role: Role,
    /// The methods it knows.
    pub methods: &'static [&'static str],
    /// Whether a call may change something. Then a browser needs a POST with a token.
    pub changes: bool,
    /// The longest body it takes, in bytes.
    pub body_limit: usize,
    /// Whether it also answers as CSV.
    pub csv: bool,
}

const READ: &[&str] = &["GET", "HEAD"];
const FORM: &[&str] = &["GET", "HEAD", "POST"];
const MESSAGE: &[&str] = &["POST"];

const fn endpoint(
    name: &'static str,
    role: Role,
    methods: &'static [&'static str],
    changes: bool,
    body_limit: usize,
) -> Endpoint {
    Endpoint { name, role, methods, changes, body_limit, csv: false }
}

/// `user/list`.
pub static USER_LIST: Endpoint = endpoint("user/list", Role::User, READ, false, 0);
/// `user/deploy`.
pub static USER_DEPLOY: Endpoint = endpoint("user/deploy", Role::User, FORM, true, 16 << 10);
/// `user/show`.
pub static USER_SHOW: Endpoint = endpoint("user/show", Role::Owner, READ, false, 0);
/// `user/console`.
pub static USER_CONSOLE: Endpoint = endpoint("user/console", Role::Owner, READ, false, 0);
/// `user/terminate`.
pub static USER_TERMINATE: Endpoint = endpoint("user/terminate", Role::Owner, FORM, true, 16 << 10);
/// `user/stop`.
pub static USER_STOP: Endpoint = endpoint("user/stop", Role::Owner, FORM, true, 16 << 10);
/// `user/start`.
pub static USER_START: Endpoint = endpoint("user/start", Role::Owner, FORM, true, 16 << 10);
/// `user/reboot`.
pub static USER_REBOOT: Endpoint = endpoint("user/reboot", Role::Owner, FORM, true, 16 << 10);
/// `user/extend`.
pub static USER_EXTEND: Endpoint = endpoint("user/extend", Role::Owner, FORM, true, 16 << 10);
/// `user/admin`.
pub static USER_ADMIN: Endpoint = endpoint("user/admin", Role::Administrator, FORM, true, 16 << 10);
/// `user/history`.
pub static USER_HISTORY: Endpoint =
    Endpoint { csv: true, ..endpoint("user/history", Role::User, READ, false, 0) };
/// `user/save`.
pub static USER_SAVE: Endpoint = endpoint("user/save", Role::Owner, FORM, true, 16 << 10);
/// `user/images`.
pub static USER_IMAGES: Endpoint = endpoint("user/images", Role::User, FORM, true, 16 << 10);
/// `internal/status`.
pub static INTERNAL_STATUS: Endpoint = endpoint("internal/status", Role::Node, MESSAGE, true, 64 << 10);
/// `node/deploy`.
pub static NODE_DEPLOY: Endpoint = endpoint("node/deploy", Role::Server, MESSAGE, true, 64 << 10);
/// `node/terminate`.
pub static NODE_TERMINATE: Endpoint = endpoint("node/terminate", Role::Server, MESSAGE, true, 64 << 10);
/// `node/stop`.
pub static NODE_STOP: Endpoint = endpoint("node/stop", Role::Server, MESSAGE, true, 64 << 10);
/// `node/start`.
pub static NODE_START: Endpoint = endpoint("node/start", Role::Server, MESSAGE, true, 64 << 10);
/// `node/reboot`.
pub static NODE_REBOOT: Endpoint = endpoint("node/reboot", Role::Server, MESSAGE, true, 64 << 10);
/// `node/save`.
pub static NODE_SAVE: Endpoint = endpoint("node/save", Role::Server, MESSAGE, true, 64 << 10);
/// `node/image`.
pub static NODE_IMAGE: Endpoint = endpoint("node/image", Role::Server, MESSAGE, true, 64 << 10);
/// `node/discard`.
pub static NODE_DISCARD: Endpoint = endpoint("node/discard", Role::Server, MESSAGE, true, 64 << 10);
/// `node/info`.
pub static NODE_INFO: Endpoint = endpoint("node/info", Role::Server, READ, false, 0);
/// `node/console`.
pub static NODE_CONSOLE: Endpoint = endpoint("node/console", Role::Server, READ, false, 0);

/// All endpoints.
pub static ENDPOINTS: [&Endpoint; 24] = [
    &USER_LIST,
    &USER_DEPLOY,
    &USER_SHOW,
    &USER_CONSOLE,
    &USER_TERMINATE,
    &USER_STOP,
    &USER_START,
    &USER_REBOOT,
    &USER_EXTEND,
    &USER_ADMIN,
    &USER_HISTORY,
    &USER_SAVE,
    &USER_IMAGES,
    &INTERNAL_STATUS,
    &NODE_DEPLOY,
    &NODE_TERMINATE,
    &NODE_STOP,
    &NODE_START,
    &NODE_REBOOT,
    &NODE_SAVE,
    &NODE_IMAGE,
    &NODE_DISCARD,
    &NODE_INFO,
    &NODE_CONSOLE,
];

/// Whether somebody may do what an endpoint does to a machine of `owner`.
pub fn permits(endpoint: &Endpoint, caller: &str, administrator: bool, owner: &str) -> bool {
    match endpoint.role {
        Role::Owner => administrator || caller == owner,
        Role::User => true,
        Role::Administrator => administrator,
        Role::Server | Role::Node => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owner_and_administrator_may_touch_a_machine() {
        for (caller, administrator, expected) in
            [("alice", false, true), ("bob", false, false), ("bob", true, true)]
        {
            assert_eq!(permits(&USER_TERMINATE, caller, administrator, "alice"), expected);
        }
        assert!(!permits(&NODE_DEPLOY, "alice", true, "alice"));
        assert!(!permits(&USER_ADMIN, "alice", false, "alice") && permits(&USER_ADMIN, "bob", true, "alice"));
    }

    #[test]
    fn what_only_reads_takes_no_body() {
        for endpoint in ENDPOINTS.iter().filter(|e| !e.methods.contains(&"POST")) {
            assert_eq!((endpoint.body_limit, endpoint.changes), (0, false), "{}", endpoint.name);
        }
    }
}
