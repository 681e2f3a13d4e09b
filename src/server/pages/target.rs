//! The machine that a request is about.

use super::access;
use crate::cgi::reply::Refusal;
use crate::cgi::serve::UserCall;
use crate::server::registry::Reader;
use crate::server::registry::vm::{Vm, Which};

/// How a request names its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Which);

impl Target {
    /// Reads the fields `id` and `vmHostname`, exactly one of which must be given.
    ///
    /// # Errors
    /// 400 for none or both, or for an invalid value.
    pub fn read(call: &UserCall<'_>) -> Result<Self, Refusal> {
        let fields = &call.request.fields;
        let given = |name| fields.get(name).is_some_and(|text| !text.is_empty());
        let which = match (given("id"), given("vmHostname")) {
            (true, true) => Err(Refusal::bad_request("Give id or vmHostname, not both.")),
            (false, true) => fields.required("vmHostname").map(Which::Named),
            (_, false) => fields.required("id").map(Which::Id),
        };
        which.map(Self)
    }

    /// Returns the machine, if the caller may do what the endpoint does.
    ///
    /// # Errors
    /// 404 if there is none, 403 if it is not the caller's, and those of a `RegistryError`.
    pub fn find(&self, call: &UserCall<'_>, reader: Reader<'_>) -> Result<Vm, Refusal> {
        match &self.0 {
            Which::Id(id) => access::machine(call, reader, *id),
            Which::Named(name) => {
                let caller = access::caller(call, reader)?;
                let vm = reader.vm_named(name)?.ok_or_else(|| {
                    Refusal::not_found(format!("No machine has the name {name} at present."))
                })?;
                access::permit(call, &caller, vm)
            }
        }
    }
}
