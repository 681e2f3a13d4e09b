//! The data that pages show, in the shape that templates and scripts receive.

mod host;
mod image;
mod machine;
mod order;

use serde::Serialize;

use crate::cgi::reply::Refusal;
use crate::model::lease::Moment;

pub use host::HostView;
pub use image::ImageView;
pub use machine::{MachineView, StageView, stages};
pub use order::{ask_again, ordered};

/// A point in time, in two forms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimeView {
    /// RFC 3339, UTC.
    pub iso: String,
    /// For people, UTC.
    pub text: String,
}

impl From<Moment> for TimeView {
    fn from(moment: Moment) -> Self {
        Self { iso: moment.rfc3339(), text: moment.to_string() }
    }
}

/// Returns a refusal for a fault in one field.
pub fn field_fault(status: u16, field: &'static str, sentence: impl Into<String>) -> Refusal {
    let sentence = sentence.into();
    let mut refusal = Refusal::new(status, sentence.clone());
    refusal.fields.insert(field, sentence);
    refusal
}
