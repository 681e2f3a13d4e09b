//! People: who has ever had a machine, under the name that Apache gave and the name that vGrid uses.

use rusqlite::OptionalExtension as _;

use crate::model::lease::Moment;
use crate::model::names::UserName;

use super::{Reader, RegistryError, Writer};

/// The owner of a machine: a user's canonical name (blanks as underscores).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(UserName);

impl Owner {
    /// The owner that a user is.
    pub fn of(user: &UserName) -> Self {
        // A blank that becomes an underscore breaks no rule for user names, so this never falls back.
        Self(user.canonical().parse().unwrap_or_else(|_| user.clone()))
    }

    /// The canonical name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The canonical name as a user's name, for orders to nodes.
    pub fn user_name(&self) -> &UserName {
        &self.0
    }
}

/// What became of an attempt to register somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// They are known, now or already.
    Known(Owner),
    /// Another person has the same canonical name.
    Taken,
}

impl Reader<'_> {
    /// The name that Apache gave for an owner when they were first seen; `None` if they never were.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn raw_name(&self, owner: &Owner) -> Result<Option<String>, RegistryError> {
        Ok(self
            .connection
            .query_row("SELECT raw FROM user WHERE canonical = ?1", [owner.as_str()], |row| row.get(0))
            .optional()?)
    }

    /// Whether somebody else is known under this user's canonical name: then this user would see, and
    /// could remove, the other's machines.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn is_somebody_else(&self, user: &UserName) -> Result<bool, RegistryError> {
        Ok(self.raw_name(&Owner::of(user))?.is_some_and(|raw| raw != user.as_str()))
    }
}

impl Reader<'_> {
    /// The address that authentication gave for somebody when they were last seen.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn mail_of(&self, owner: &Owner) -> Result<Option<String>, RegistryError> {
        let found: Option<Option<String>> = self
            .connection
            .query_row("SELECT mail FROM user WHERE canonical = ?1", [owner.as_str()], |row| row.get(0))
            .optional()?;
        Ok(found.flatten())
    }
}

impl Writer<'_> {
    /// Remembers the address that authentication gives for somebody who is known.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn keep_mail(&self, owner: &Owner, address: &str) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE user SET mail = ?2 WHERE canonical = ?1 AND mail IS NOT ?2",
            (owner.as_str(), address),
        )?;
        Ok(())
    }

    /// The owner by whose canonical name a machine is known on a host. Somebody who is not known yet is remembered by that
    /// name: the one that Apache gives is not known there.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn register_owner(&self, canonical: &UserName, now: Moment) -> Result<Owner, RegistryError> {
        let owner = Owner::of(canonical);
        if self.raw_name(&owner)?.is_none() {
            self.register(canonical, now)?;
        }
        Ok(owner)
    }

    /// Remembers who owns a canonical name, the first time; later only compares.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn register(&self, user: &UserName, now: Moment) -> Result<Registered, RegistryError> {
        let owner = Owner::of(user);
        match self.raw_name(&owner)? {
            Some(raw) if raw == user.as_str() => Ok(Registered::Known(owner)),
            Some(_) => Ok(Registered::Taken),
            None => {
                self.connection.execute(
                    "INSERT INTO user (canonical, raw, since) VALUES (?1, ?2, ?3)",
                    (owner.as_str(), user.as_str(), now.unix()),
                )?;
                Ok(Registered::Known(owner))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    #[test]
    fn two_people_never_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let (first, second): (UserName, UserName) = ("a b".parse().unwrap(), "a_b".parse().unwrap());
        let now = Moment::from_unix(1);
        let mut register = |user: &UserName| registry.write(|writer| writer.register(user, now)).unwrap();
        assert_eq!(register(&first), Registered::Known(Owner::of(&second)));
        assert_eq!(register(&first), Registered::Known(Owner::of(&first)));
        assert_eq!(register(&second), Registered::Taken);
        assert!(registry.read(|reader| reader.is_somebody_else(&second)).unwrap());
        assert!(!registry.read(|reader| reader.is_somebody_else(&first)).unwrap());
    }
}
