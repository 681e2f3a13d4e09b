//! Which machine a request means.

use super::access;
use crate::cgi::reply::Refusal;
use crate::cgi::serve::UserCall;
use crate::model::names::{VirtualHost, VmId};
use crate::server::registry::Reader;
use crate::server::registry::vm::Vm;

/// Which machine is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The one with this id.
    Id(VmId),
    /// The live one with this name.
    Named(VirtualHost),
}

impl Target {
    /// Reads the fields `id` and `vmHostname`, of which one must be there.
    ///
    /// # Errors
    /// 400 if there are none or both, or the one is not well-formed.
    pub fn read(call: &UserCall<'_>) -> Result<Self, Refusal> {
        let fields = &call.request.fields;
        let given = |name| fields.get(name).is_some_and(|text| !text.is_empty());
        match (given("id"), given("vmHostname")) {
            (true, true) => Err(Refusal::bad_request("Give id or vmHostname, not both.")),
            (false, true) => fields.required("vmHostname").map(Target::Named),
            (_, false) => fields.required("id").map(Target::Id),
        }
    }

    /// The machine, if the caller may do with it what the called endpoint does.
    ///
    /// # Errors
    /// 404 if there is none, 403 if it is not the caller's, and what `RegistryError` becomes.
    pub fn find(&self, call: &UserCall<'_>, reader: Reader<'_>) -> Result<Vm, Refusal> {
        match self {
            Self::Id(id) => access::machine(call, reader, *id),
            Self::Named(name) => {
                let caller = access::caller(call, reader)?;
                let vm = reader.vm_named(name)?.ok_or_else(|| {
                    Refusal::not_found(format!("No machine has the name {name} at present."))
                })?;
                access::permit(call, &caller, vm)
            }
        }
    }
}
