//! Access control: who may see and change which machine.

use crate::cgi::policy;
use crate::cgi::reply::Refusal;
use crate::cgi::serve::{UserCall, WithBanner};
use crate::model::names::{UserName, VmId};
use crate::model::text::{ended, sentence};
use crate::server::registry::closed::Closed;
use crate::server::registry::event::Actor;
use crate::server::registry::user::{Owner, Person};
use crate::server::registry::vm::Vm;
use crate::server::registry::{Reader, Registry, RegistryError};
use crate::system::log::{self, Level};

/// Opens the registry for a page that only reads, and runs `look`. The banner says that the portal
/// is closed, if it is.
///
/// # Errors
/// Those of `look`, which get the same banner, and otherwise as for any `RegistryError`.
pub fn read<T>(
    call: &UserCall<'_>,
    look: impl FnOnce(Reader<'_>) -> Result<T, Refusal>,
) -> Result<WithBanner<T>, Refusal> {
    let file = &call.config.general.registry_file;
    let registry = Registry::open_to_read(file).map_err(|error| unopened(call, error))?;
    let closed = registry.read(|reader| reader.portal_closed())?;
    let banner = closed.map(|closed| told(&closed, call.administrator));
    match registry.read(look) {
        Ok(content) => Ok(WithBanner { content, banner }),
        Err(refusal) => Err(refusal.below(banner)),
    }
}

/// Opens the registry for a page that makes changes in the caller's name, and stores the caller's
/// mail address. The only place that enforces a closed portal: every change made for a user comes
/// through here.
///
/// # Errors
/// 403 for a caller who could be mistaken for an administrator, 503 with the administrators' reason
/// while the portal is closed (except for administrators), otherwise as for any `RegistryError`.
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

/// Returns the refusal for a registry that can't be opened. If it is missing or is not a registry,
/// administrators also read where it should be and what to do.
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

/// Stores the caller's mail address as authentication gives it, if the registry knows the caller. A
/// failure is only logged: the next request tries again.
pub fn keep_mail(call: &UserCall<'_>, registry: &mut Registry) {
    let Some(address) = &call.mail else { return };
    let kept = registry.read(|reader| match reader.person(&call.user, call.config.folding())? {
        Person::Known(owner) if reader.mail_of(&owner)? != Some(address.to_string()) => Ok(Some(owner)),
        _ => Ok::<_, RegistryError>(None),
    });
    // Usually it is stored already, and no write lock is needed.
    let kept = match kept {
        Ok(Some(owner)) => registry.write(|writer| writer.keep_mail(&owner, &address.to_string())),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        log::event(Level::Warning, "mail.address-not-kept", &[("user", &call.user), ("why", &error)]);
    }
}

/// Returns the sentence that says that the portal is closed, and why.
fn told(closed: &Closed, administrator: bool) -> String {
    let reason = ended(&closed.reason);
    let rest = if administrator {
        "Only administrators can change anything."
    } else {
        "You can look at everything, but change nothing for now."
    };
    format!("The portal is closed: {reason} {rest}")
}

/// Returns the caller as history and log name them.
fn actor(call: &UserCall<'_>) -> Actor {
    Actor { who: call.user.to_string(), from: call.request.from() }
}

/// Returns the refusal for a caller who could be mistaken for the person known by the raw name
/// `known`.
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

/// Refuses a caller who could be mistaken for an administrator.
fn no_administrator_s_double(call: &UserCall<'_>) -> Result<(), Refusal> {
    match call.config.administrator_like(&call.user) {
        Some(known) => Err(somebody_else(&call.user, known.as_str())),
        None => Ok(()),
    }
}

/// Returns the caller as an owner of machines.
///
/// # Errors
/// 403 for a caller who could be mistaken for another person and would see that person's machines.
pub fn caller(call: &UserCall<'_>, reader: Reader<'_>) -> Result<Owner, Refusal> {
    no_administrator_s_double(call)?;
    match reader.person(&call.user, call.config.folding())? {
        Person::Known(owner) | Person::New(owner) => Ok(owner),
        Person::Taken(known) => Err(somebody_else(&call.user, &known)),
    }
}

/// Returns the machine if it is the caller's or the caller is an administrator.
///
/// # Errors
/// 403 otherwise.
pub fn permit(call: &UserCall<'_>, caller: &Owner, vm: Vm) -> Result<Vm, Refusal> {
    if policy::permits(caller.as_str(), call.administrator, vm.owner.as_str()) {
        Ok(vm)
    } else {
        Err(Refusal::forbidden(
            "This machine belongs to somebody else. Only its owner or an administrator can do this.",
        )
        .logged(format!("machine {} of {}", vm.id, vm.owner.as_str())))
    }
}

/// Returns the machine with an id, if it is the caller's or the caller is an administrator.
///
/// # Errors
/// 404 if there never was one, 403 if it is not the caller's, and those of a `RegistryError`.
pub fn machine(call: &UserCall<'_>, reader: Reader<'_>, id: VmId) -> Result<Vm, Refusal> {
    let owner = caller(call, reader)?;
    let vm = reader.vm(id)?.ok_or_else(|| Refusal::not_found("There is no machine with this id."))?;
    permit(call, &owner, vm)
}
