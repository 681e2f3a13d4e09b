//! Who gets at which machine.

use crate::cgi::policy::{self, Endpoint};
use crate::cgi::reply::Refusal;
use crate::cgi::serve::UserCall;
use crate::model::names::{UserName, VmId};
use crate::model::text::{ended, sentence};
use crate::server::registry::closed::Closed;
use crate::server::registry::event::Actor;
use crate::server::registry::user::{Owner, Person};
use crate::server::registry::vm::Vm;
use crate::server::registry::{Reader, Registry, RegistryError};
use crate::system::log::{self, Level};

/// Opens the registry for a page that only reads.
///
/// # Errors
/// A [`Refusal`] as for any `RegistryError`.
pub fn registry_to_read(call: &UserCall<'_>) -> Result<Registry, Refusal> {
    let file = &call.config.general.registry_file;
    let registry = Registry::open_to_read(file).map_err(|error| unopened(call, error))?;
    if let Some(closed) = registry.read(|reader| reader.portal_closed())? {
        // Whoever comes second finds the same.
        let _ = call.banner.set(told(&closed, call.administrator));
    }
    Ok(registry)
}

/// Opens the registry for a page that changes something in the caller's name, and keeps the caller's address of mail. The one place where
/// a closed portal refuses: who changes anything for somebody comes by here.
///
/// # Errors
/// 403 for a caller who would be taken for an administrator, 503 with the administrators' words while the portal is closed, but not for administrators; else a [`Refusal`] as
/// for any `RegistryError`.
pub fn registry(call: &UserCall<'_>) -> Result<Registry, Refusal> {
    no_administrator_s_double(call)?;
    let file = &call.config.general.registry_file;
    let registry = Registry::open(file).map_err(|error| unopened(call, error))?;
    let mut registry = registry.acting(actor(call));
    if !call.administrator
        && let Some(closed) = registry.read(|reader| reader.portal_closed())?
    {
        return Err(Refusal::closed(format!("{} Nothing was done.", told(&closed, false))));
    }
    keep_mail(call, &mut registry);
    Ok(registry)
}

/// The refusal of a call for which the registry can't be opened. Of one that is missing administrators read where it should
/// be, and what to do.
fn unopened(call: &UserCall<'_>, error: RegistryError) -> Refusal {
    let remedy = match &error {
        RegistryError::Missing { .. } | RegistryError::NotRegistry { .. } if call.administrator => {
            Some(sentence(&error))
        }
        _ => None,
    };
    let mut refusal = Refusal::from(error);
    if let Some(remedy) = remedy {
        refusal.sentence = format!("{} {remedy}", refusal.sentence);
    }
    refusal
}

/// Keeps the address of mail that authentication gives for the caller, if the registry knows them. No request fails
/// for it: the next one keeps it.
pub fn keep_mail(call: &UserCall<'_>, registry: &mut Registry) {
    let Some(address) = &call.mail else { return };
    let kept = registry.read(|reader| match reader.person(&call.user, call.config.folding())? {
        Person::Known(owner) if reader.mail_of(&owner)? != Some(address.to_string()) => Ok(Some(owner)),
        _ => Ok::<_, RegistryError>(None),
    });
    // Most requests find it there already, and need no lock for it.
    let kept = match kept {
        Ok(Some(owner)) => registry.write(|writer| writer.keep_mail(&owner, &address.to_string())),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        log::event(Level::Warning, "mail.address-not-kept", &[("user", &call.user), ("why", &error)]);
    }
}

/// That the portal is closed, and why.
fn told(closed: &Closed, administrator: bool) -> String {
    let reason = ended(&closed.reason);
    let rest = if administrator {
        "Only administrators can change anything."
    } else {
        "You can look at everything, but change nothing for now."
    };
    format!("The portal is closed: {reason} {rest}")
}

/// The caller, as history and log name them.
fn actor(call: &UserCall<'_>) -> Actor {
    Actor { who: call.user.to_string(), from: call.request.from() }
}

/// The refusal of somebody who would be taken for the person who is known by the raw name `known`.
pub fn somebody_else(user: &UserName, known: &str) -> Refusal {
    if user.canonical() != known.replace(' ', "_") {
        return Refusal::forbidden(format!(
            "Your user name {user:?} differs from {known:?}, who is known here, only in capitals or in how its \
             letters are encoded, and nobody is to be taken for another person. Sign in as {known:?}. If every \
             spelling is one person's, as with LDAP, an administrator says so: foldUserNames = true in [General] \
             of server.cfg.",
            user = user.as_str()
        ));
    }
    Refusal::forbidden(format!(
        "Your user name {user:?} is written here as {:?}, and that already is another person's name. \
         Tell an administrator.",
        user.canonical(),
        user = user.as_str()
    ))
}

/// Refuses a caller who would be taken for an administrator.
fn no_administrator_s_double(call: &UserCall<'_>) -> Result<(), Refusal> {
    match call.config.administrator_like(&call.user) {
        Some(known) => Err(somebody_else(&call.user, known.as_str())),
        None => Ok(()),
    }
}

/// The owner that the caller is.
///
/// # Errors
/// 403 for a caller who would be taken for another person: they would see that person's machines.
pub fn caller(call: &UserCall<'_>, reader: Reader<'_>) -> Result<Owner, Refusal> {
    no_administrator_s_double(call)?;
    match reader.person(&call.user, call.config.folding())? {
        Person::Known(owner) | Person::New(owner) => Ok(owner),
        Person::Taken(known) => Err(somebody_else(&call.user, &known)),
    }
}

/// Lets a machine through if the caller may do with it what `endpoint` does.
///
/// # Errors
/// 403 with a sentence.
pub fn permit(call: &UserCall<'_>, endpoint: &Endpoint, caller: &Owner, vm: Vm) -> Result<Vm, Refusal> {
    if policy::permits(endpoint, caller.as_str(), call.administrator, vm.owner.as_str()) {
        Ok(vm)
    } else {
        Err(Refusal::forbidden(
            "This machine belongs to somebody else. Only its owner or an administrator can do this.",
        )
        .logged(format!("machine {} of {}", vm.id, vm.owner.as_str())))
    }
}

/// The machine with an id, if the caller may do with it what `endpoint` does.
///
/// # Errors
/// 404 if there never was one, 403 if it is not the caller's, and what `RegistryError` becomes.
pub fn machine(
    call: &UserCall<'_>,
    endpoint: &Endpoint,
    reader: Reader<'_>,
    id: VmId,
) -> Result<Vm, Refusal> {
    let owner = caller(call, reader)?;
    let vm = reader.vm(id)?.ok_or_else(|| Refusal::not_found("There is no machine with this id."))?;
    permit(call, endpoint, &owner, vm)
}
