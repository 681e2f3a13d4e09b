//! The token in each form, by which a browser proves that the form came from this portal.

use crate::cgi::reply::Refusal;
use crate::config;
use crate::model::names::UserName;
use crate::model::sign::{self, Key};
use crate::system::clock;

/// Returns the token for a form: it proves that this server made the form today, for this user.
pub(super) fn form_token(config: &config::Server, user: &UserName) -> Result<String, Refusal> {
    Ok(sign::token(&config.key()?, &["form", user.as_str(), &day(0)]))
}

/// Returns whether [`form_token`] returned this token for this user today or yesterday.
pub(super) fn is_form_token(key: &Key, user: &UserName, given: &str) -> bool {
    [0, 1].into_iter().any(|ago| sign::is_token(key, &["form", user.as_str(), &day(ago)], given))
}

/// Returns the day `days_ago` days ago, counted since 1970 (UTC).
fn day(days_ago: i64) -> String {
    (clock::now().unix() / 86_400 - days_ago).to_string()
}
