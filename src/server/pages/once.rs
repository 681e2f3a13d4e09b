//! One order, one machine: what makes an order for a machine recognisable when it is sent again.
//!
//! A form carries the id of the machine that it will make, with a proof that this portal made that id for this user. A
//! script may give a `requestId` of its own. Either is kept as long as the machine is remembered.

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

/// How long a form can be sent, in seconds: its token is good today and tomorrow.
const GOOD_FOR: i64 = 2 * 86_400;

/// How far the clock may have been set back since a form was shown, in seconds.
const CLOCK_SET_BACK: i64 = 300;

/// Reads the mark of an order, if it has one.
///
/// # Errors
/// 403 for the id of a form that is not the caller's or too old, 400 for a `requestId` that can't be one, or both.
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

/// The field that a mark was in.
pub fn field(mark: &Mark) -> &'static str {
    match mark {
        Mark::Form(_) => FORM,
        Mark::Script(_) => SCRIPT,
    }
}

/// What a new form carries.
///
/// # Errors
/// A [`Refusal`] when the key is missing.
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
