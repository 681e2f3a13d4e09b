//! The server's endpoints, each with its callers, what it takes, and its handler. Each program in
//! `bin/user` and `bin/internal` serves one of them.
//!
//! README.md has a table of those that scripts use, made from what is written here about each
//! (`tests/documents.rs`). So write for users, in one sentence.

use crate::cgi::policy::endpoints;
use crate::cgi::serve::{Page, ReportEndpoint};
use crate::server::internal::status;
use crate::server::pages::{
    admin, console, deploy, extend, history, images, list, power, resize, save, show, snapshots, terminate,
};

endpoints! {
    /// Your machines, and how full each host is.
    LIST: Page = "user/list", User, Query => list::handle;
    /// One machine: state, progress and history.
    SHOW: Page = "user/show", Owner, Query => show::handle;
    /// The end of a machine's console output.
    CONSOLE: Page = "user/console", Owner, Query => console::handle;
    /// Deploys a machine from `vmImage`, `savedImage` or `fromSnapshot`, with `vmMemory` (MiB) and `vmPartition`
    /// (GiB); optionally `vmCPUs`, `physicalHost`, `vmHostname`, `vmName`, `expiryTime` (`12h`,
    /// `7d`), `requestId`.
    DEPLOY: Page = "user/deploy", User, Form => deploy::handle;
    /// Shuts a machine down; it keeps its disk, its name and its place on the host.
    STOP: Page = "user/stop", Owner, Form => power::stop;
    /// Starts a stopped machine.
    START: Page = "user/start", Owner, Form => power::start;
    /// Shuts a machine down and starts it again.
    REBOOT: Page = "user/reboot", Owner, Form => power::reboot;
    /// Sets a new lease, `expiryTime`, counted from now (`confirm=1` to shorten it); `protect=1`
    /// protects the machine from being terminated by hand.
    EXTEND: Page = "user/extend", Owner, Form => extend::handle;
    /// Gives a stopped machine other sizes: `vmMemory` (MiB), `vmCPUs`, a larger `vmPartition` (GiB);
    /// without any of them, says how much it can be given.
    RESIZE: Page = "user/resize", Owner, Form => resize::handle;
    /// The snapshots of a machine's disk; `do=take`, `roll-back` (only if it is stopped) or `delete`, with
    /// `name`; `do=as-new` has a stopped machine go back to its image.
    SNAPSHOTS: Page = "user/snapshots", Owner, Form => snapshots::handle;
    /// Saves the disk of a stopped machine as the image `name`.
    SAVE: Page = "user/save", Owner, Form => save::handle;
    /// Terminates a machine; with `saveAs=NAME`, saves its disk as an image first.
    TERMINATE: Page = "user/terminate", Owner, Form => terminate::handle;
    /// Your saved images and those that others share.
    IMAGES: Page = "user/images", User, Form => images::handle;
    /// What happened to your machines; `who`, `what`, `about`, `since` and `until` select events,
    /// and `format=csv` returns them as a table.
    HISTORY: Page = "user/history", User, TableQuery => history::handle;
    /// The whole portal, for administrators: closes and opens it, and removes or adopts orphans.
    ADMIN: Page = "user/admin", Administrator, Form => admin::handle;
    /// What a host reports about an order.
    STATUS: ReportEndpoint = "internal/status", Node, Message => status::handle;
}
