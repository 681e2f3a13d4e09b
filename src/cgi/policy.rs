//! What an endpoint accepts: from which callers, by which methods, with what body. The server and
//! the node each have a table of endpoints (`server::endpoints`, `node::endpoints`);
//! [`super::serve`] checks a request against its row before a handler runs.

/// Who may call an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Anyone authenticated by Apache.
    User,
    /// The owner of the machine that the request names, or an administrator. Checked by the handler
    /// ([`permits`]), since only it knows the machine.
    Owner,
    /// Administrators only.
    Administrator,
    /// The server, recognized by its address and its signature.
    Server,
    /// A node, recognized by its signature and by the address of the machine's host.
    Node,
}

/// The kind of request that an endpoint takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// A query: changes nothing and has no body.
    Query,
    /// A query that can also be answered with a table in CSV.
    TableQuery,
    /// A query, or a form that may change something. From a browser, the form needs a token.
    Form,
    /// A message between server and node.
    Message,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint {
    /// The path below `cgi-bin/`, and also in `bin/`.
    pub name: &'static str,
    /// Who may call it.
    pub role: Role,
    /// What it takes.
    pub takes: Takes,
}

impl Endpoint {
    /// Returns the allowed methods.
    pub fn methods(&self) -> &'static [&'static str] {
        match self.takes {
            Takes::Query | Takes::TableQuery => &["GET", "HEAD"],
            Takes::Form => &["GET", "HEAD", "POST"],
            Takes::Message => &["POST"],
        }
    }

    /// Returns the longest body that it accepts, in bytes.
    pub fn body_limit(&self) -> usize {
        match self.takes {
            Takes::Query | Takes::TableQuery => 0,
            Takes::Form => 16 << 10,
            Takes::Message => 64 << 10,
        }
    }

    /// Returns whether a call may change something.
    pub fn changes(&self) -> bool {
        matches!(self.takes, Takes::Form | Takes::Message)
    }

    /// Returns whether it accepts a body at all.
    pub fn takes_body(&self) -> bool {
        self.body_limit() > 0
    }
}

/// Defines a table of endpoints: a static program for each row, and `ENDPOINTS`, which has the rows
/// without their handlers, so that reading the table does not link them all. Each row is documented.
macro_rules! endpoints {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $program:ty = $path:literal, $role:ident, $takes:ident => $handler:expr;
    )+) => {
        $(
            #[doc = concat!("Serves `", $path, "`.")]
            ///
            $(#[doc = $doc])+
            pub static $name: $program = <$program>::new(
                &$crate::cgi::policy::Endpoint {
                    name: $path,
                    role: $crate::cgi::policy::Role::$role,
                    takes: $crate::cgi::policy::Takes::$takes,
                },
                $handler,
            );
        )+

        /// The rows of the table.
        pub static ENDPOINTS: &[$crate::cgi::policy::Endpoint] = &[$(
            $crate::cgi::policy::Endpoint {
                name: $path,
                role: $crate::cgi::policy::Role::$role,
                takes: $crate::cgi::policy::Takes::$takes,
            },
        )+];
    };
}

pub(crate) use endpoints;

/// Returns whether the caller may change a machine of `owner`, or see its details.
pub fn permits(caller: &str, administrator: bool, owner: &str) -> bool {
    administrator || caller == owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_owners_and_administrators_may_touch_a_machine() {
        for (caller, administrator, expected) in
            [("alice", false, true), ("bob", false, false), ("bob", true, true)]
        {
            assert_eq!(permits(caller, administrator, "alice"), expected, "{caller}");
        }
    }

    #[test]
    fn what_only_reads_takes_no_body() {
        for takes in [Takes::Query, Takes::TableQuery, Takes::Form, Takes::Message] {
            let endpoint = Endpoint { name: "user/x", role: Role::User, takes };
            let posts = endpoint.methods().contains(&"POST");
            assert_eq!((endpoint.takes_body(), endpoint.changes()), (posts, posts), "{takes:?}");
        }
    }
}
