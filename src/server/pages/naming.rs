//! Names of saved images, as several forms take them.

use super::view::field_fault;
use crate::cgi::reply::Refusal;
use crate::cgi::request::Fields;
use crate::model::names::ImageName;
use crate::model::text::sentence;
use crate::server::machine::save::NotSaved;

/// Reads an image's name from a field.
///
/// # Errors
/// 400 if the field is empty or not a valid name.
pub fn read(fields: &Fields, field: &'static str) -> Result<ImageName, Refusal> {
    let text = fields.get(field).map(str::trim).unwrap_or_default();
    if text.is_empty() {
        return Err(field_fault(400, field, "Say what the image is to be called."));
    }
    text.parse().map_err(|fault| {
        let rule = "A name has up to 40 of small letters, digits, points and hyphens.";
        field_fault(400, field, format!("{} {rule}", sentence(&fault)))
    })
}

/// Returns the refusal for an image that was not saved or renamed. A fault of the name is
/// attributed to `field`.
pub fn refusal(why: NotSaved, field: &'static str) -> Refusal {
    match why {
        NotSaved::State(sentence) => Refusal::conflict(sentence),
        NotSaved::Registry(error) => error.into(),
        about_name => field_fault(409, field, about_name.to_string()),
    }
}
