//! Idempotent orders for machines: how an order is recognized when it is sent again.
//!
//! A form carries the id of the machine that it will make, with a proof that this portal generated
//! that id for this user. A script may give a `requestId` of its own. Both are kept as long as the
//! machine is remembered.

use crate::cgi::reply::Refusal;
use crate::cgi::serve::UserCall;
use crate::model::names::{UserName, VmId};
use crate::model::sign::{self, Key};
use crate::server::machine::create::Mark;
use crate::system::clock;

/// The field of the form.
pub const FORM: &str = "machine";

/// The field for scripts.
pub const SCRIPT: &str = "requestId";

/// How long a form stays valid, in seconds: its token is accepted today and tomorrow.
const GOOD_FOR: i64 = 2 * 86_400;

/// How far the clock may have been set back since the form was shown, in seconds.
const CLOCK_SET_BACK: i64 = 300;

/// Reads an order's mark, if it has one.
///
/// # Errors
/// 403 for an id that is too old or was not generated for the caller, 400 for an invalid
/// `requestId`, or for both fields together.
pub fn read(call: &UserCall<'_>) -> Result<Option<Mark>, Refusal> {
    let given = |name: &str| call.request.fields.get(name).filter(|text| !text.is_empty());
    match (given(FORM), given(SCRIPT)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::bad_request(format!("Give {FORM} or {SCRIPT}, not both."))),
        (Some(text), None) => of_form(&call.config.key()?, &call.user, text).map(Some).ok_or_else(|| {
            Refusal::forbidden(
                "This form is too old, or not from this portal. Open it again and send it again.",
            )
        }),
        (None, Some(name)) => match name.parse() {
            Ok(name) => Ok(Some(Mark::Script(name))),
            Err(fault) => Err(Refusal::bad_request(format!("{SCRIPT} {fault}."))),
        },
    }
}

/// Returns the field that a mark comes from.
pub fn field(mark: &Mark) -> &'static str {
    match mark {
        Mark::Form(_) => FORM,
        Mark::Script(_) => SCRIPT,
    }
}

/// Returns the mark for a new form.
///
/// # Errors
/// A [`Refusal`] if the key is missing.
pub fn for_a_form(call: &UserCall<'_>) -> Result<String, Refusal> {
    let id = VmId::generate();
    Ok(format!("{id}.{}", proof(&call.config.key()?, &call.user, id)))
}

fn proof(key: &Key, user: &UserName, id: VmId) -> String {
    sign::token(key, &[FORM, user.as_str(), &id.to_string()])
}

fn of_form(key: &Key, user: &UserName, text: &str) -> Option<Mark> {
    let (id, given) = text.split_once('.')?;
    let id: VmId = id.parse().ok()?;
    let age = clock::now().since(id.made());
    (given == proof(key, user, id) && (-CLOCK_SET_BACK..=GOOD_FOR).contains(&age)).then_some(Mark::Form(id))
}
