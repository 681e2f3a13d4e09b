//! The server's endpoints, each with its callers, what it takes, and its handler. Each program in
//! `bin/user` and `bin/internal` serves one of them.

use crate::cgi::policy::endpoints;
use crate::cgi::serve::{Page, ReportEndpoint};
use crate::server::internal::status;
use crate::server::pages::{
    admin, console, deploy, extend, history, images, list, power, save, show, terminate,
};

endpoints! {
    LIST: Page = "user/list", User, Query => list::handle;
    SHOW: Page = "user/show", Owner, Query => show::handle;
    CONSOLE: Page = "user/console", Owner, Query => console::handle;
    DEPLOY: Page = "user/deploy", User, Form => deploy::handle;
    STOP: Page = "user/stop", Owner, Form => power::stop;
    START: Page = "user/start", Owner, Form => power::start;
    REBOOT: Page = "user/reboot", Owner, Form => power::reboot;
    EXTEND: Page = "user/extend", Owner, Form => extend::handle;
    SAVE: Page = "user/save", Owner, Form => save::handle;
    TERMINATE: Page = "user/terminate", Owner, Form => terminate::handle;
    IMAGES: Page = "user/images", User, Form => images::handle;
    HISTORY: Page = "user/history", User, TableQuery => history::handle;
    ADMIN: Page = "user/admin", Administrator, Form => admin::handle;
    STATUS: ReportEndpoint = "internal/status", Node, Message => status::handle;
}
