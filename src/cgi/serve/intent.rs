//! Decides whether a user's call is meant to change something, and may.

use crate::cgi::reply::Refusal;
use crate::cgi::request::{Format, Request};
use crate::cgi::sender::{Elsewhere, Sender, accepts_pages};
use crate::model::origin::Origin;

use super::call::UserCall;
use super::token::is_form_token;

/// Fields that determine how something is shown, never what is done.
const PASSIVE: [&str; 3] = ["format", "like", "scope"];

/// Fields that name a machine. In a script's request they are enough to act.
const MACHINE: [&str; 2] = ["id", "vmHostname"];

/// Returns whether the call is meant to change something, and refuses one that may not.
///
/// A script (wget) can act with a GET or a POST. A browser is recognized by headers that only
/// browsers send. It can act only with a POST from a form of ours, which a token proves.
pub(super) fn intent(call: &UserCall<'_>) -> Result<bool, Refusal> {
    let request = call.request;
    let asks = request.is_post || request.fields.names().any(|name| !PASSIVE.contains(&name));
    // A HEAD asks what a GET would return (wget --spider); its answer could not report what had
    // been done.
    if !call.endpoint.changes() || !asks || request.is_head {
        return Ok(false);
    }
    let host = request.header("host").unwrap_or_default();
    let is_ours = |origin: &Origin| origin.is_at(host) || call.config.is_portal(origin);
    match Sender::of(&request.headers, is_ours) {
        Sender::Script => return Ok(true),
        // A browser's GET shows a page whatever site it comes from: people follow links in webmail.
        Sender::Elsewhere(_) if shows_only(request) => return Ok(false),
        Sender::Elsewhere(elsewhere) => return Err(led_here(&elsewhere, host)),
        Sender::Browser(_) if !request.is_post && request.format == Format::Html => return Ok(false),
        // A request for another format than a page can't come from a form of ours.
        Sender::Browser(header)
            if request.format != Format::Html
                && (!request.is_post || request.fields.get("token").is_none()) =>
        {
            return Err(Refusal::bad_request(format!(
                "Nothing was done: the header {header} is a browser's, and a browser acts by the portal's \
                 forms only. A script sends none of Sec-Fetch-Site, Origin, Referer and Accept-Language, and \
                 no text/html in Accept."
            )));
        }
        Sender::Browser(_) => {}
    }
    let given = request.fields.get("token").unwrap_or_default();
    if is_form_token(&call.config.key()?, &call.user, given) {
        return Ok(true);
    }
    Err(Refusal::forbidden("This form is too old, or not from this portal. Open it again and send it again."))
}

/// Returns whether a request that another site sent here only wants a page: no program reads the
/// answer, and either a person follows a link or no field asks for anything to be done.
fn shows_only(request: &Request) -> bool {
    let accepts_pages = request.header("accept").is_some_and(accepts_pages);
    let is_plain = |name| PASSIVE.contains(&name) || MACHINE.contains(&name);
    !request.is_post
        && request.format == Format::Html
        && (accepts_pages || request.fields.names().all(is_plain))
}

/// Returns the refusal for a request that another site made a browser send.
fn led_here(elsewhere: &Elsewhere, host: &str) -> Refusal {
    let (why, more) = match elsewhere {
        Elsewhere::Site => ("your browser was sent here by another site".to_owned(), String::new()),
        Elsewhere::Page(origin) => (
            format!(
                "your browser was sent here by another site, {origin:.200}, while Apache was asked for {host:.200}"
            ),
            format!(
                " If {origin:.200} is the portal, behind a proxy, an administrator names it in portalURLs in \
                 [General] of server.cfg."
            ),
        ),
        Elsewhere::Unreadable(header) => (
            format!("the header {header} can't be read, so another site may have sent your browser here"),
            String::new(),
        ),
    };
    Refusal::forbidden(format!("Refused: {why}. Open the portal and do it there.{more}"))
}
