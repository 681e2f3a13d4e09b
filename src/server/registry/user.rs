//! People: everyone who has ever had a machine, under the name that Apache gave and the name that
//! vGrid uses.

use std::path::Path;

use rusqlite::{OpenFlags, OptionalExtension as _};

use crate::model::folding::{Folding, folded};
use crate::model::names::UserName;
use crate::server::registry::{Reader, Registry, RegistryError, Writer};

/// The owner of a machine, by canonical name (blanks as underscores).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner(UserName);

impl Owner {
    /// Returns the owner that corresponds to a user.
    pub fn of(user: &UserName) -> Self {
        // Replacing blanks by underscores keeps a user name valid, so the fallback is never used.
        Self(user.canonical().parse().unwrap_or_else(|_| user.clone()))
    }

    /// Returns the canonical name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the canonical name as a user name, for orders to nodes.
    pub fn user_name(&self) -> &UserName {
        &self.0
    }
}

/// The outcome of registering a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// The user is known, now or already.
    Known(Owner),
    /// The name is too close to that of another person, known by this raw name.
    Taken(String),
}

/// The person that a user name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// A known person, by canonical name.
    Known(Owner),
    /// A person not seen before; this would be their canonical name.
    New(Owner),
    /// A name too close to that of another person, known by this raw name.
    Taken(String),
}

impl Registry {
    /// Returns the raw names of separate people whose names fold to the same, each pair as the
    /// earlier and the later one. Nothing is created or migrated.
    pub fn names_alike(file: &Path) -> Result<Vec<(String, String)>, RegistryError> {
        let registry = Self::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        registry.version(file)?;
        let mut statement = registry
            .connection
            .prepare("SELECT canonical, raw FROM user WHERE folded IS NULL ORDER BY raw")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let later: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
        let first = |canonical: &str| {
            let sql = "SELECT raw FROM user WHERE folded = ?1";
            registry.connection.query_row(sql, [folded(canonical)], |row| row.get(0)).optional()
        };
        let mut alike = Vec::new();
        for (canonical, raw) in later {
            if let Some(known) = first(&canonical)? {
                alike.push((known, raw));
            }
        }
        Ok(alike)
    }
}

impl Reader<'_> {
    /// Returns the name that Apache gave for an owner when they were first seen; `None` if they
    /// never were.
    pub fn raw_name(&self, owner: &Owner) -> Result<Option<String>, RegistryError> {
        Ok(self
            .connection
            .query_row("SELECT raw FROM user WHERE canonical = ?1", [owner.as_str()], |row| row.get(0))
            .optional()?)
    }

    /// Returns the person that a user name stands for. Without folding, that is only the person
    /// first seen under exactly this name; with folding, names that differ only in case or encoding
    /// are the same person too. A name with a blank in place of an underscore never is.
    pub fn person(&self, user: &UserName, folding: Folding) -> Result<Person, RegistryError> {
        let one = |sql: &str, value: &str| -> Result<Option<(UserName, UserName)>, RegistryError> {
            let row: Option<(String, String)> =
                self.connection.query_row(sql, [value], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let name = |text: String| {
                let corrupt = |_| RegistryError::Corrupt { column: "user".to_owned(), value: text.clone() };
                text.parse().map_err(corrupt)
            };
            row.map(|(canonical, raw)| Ok((name(canonical)?, name(raw)?))).transpose()
        };
        if let Some((canonical, _)) = one("SELECT canonical, raw FROM user WHERE raw = ?1", user.as_str())? {
            return Ok(Person::Known(Owner(canonical)));
        }
        let owner = Owner::of(user);
        let key = folded(owner.as_str());
        if let Some((canonical, raw)) = one("SELECT canonical, raw FROM user WHERE folded = ?1", &key)? {
            return Ok(if folding == Folding::On && raw.is_alike(user) {
                Person::Known(Owner(canonical))
            } else {
                Person::Taken(raw.into())
            });
        }
        // Somebody with this canonical name who has no folded name, because an older person's name folds
        // to the same.
        Ok(match self.raw_name(&owner)? {
            Some(raw) => Person::Taken(raw),
            None => Person::New(owner),
        })
    }
}

impl Reader<'_> {
    /// Returns the owner that a typed name refers to.
    pub fn meant(&self, typed: &UserName, folding: Folding) -> Result<Owner, RegistryError> {
        Ok(match self.person(typed, folding)? {
            Person::Known(owner) | Person::New(owner) => owner,
            // Pages show canonical names, so a typed name may be one.
            Person::Taken(_) => Owner::of(typed),
        })
    }

    /// Returns the address that authentication last gave for an owner.
    pub fn mail_of(&self, owner: &Owner) -> Result<Option<String>, RegistryError> {
        let found: Option<Option<String>> = self
            .connection
            .query_row("SELECT mail FROM user WHERE canonical = ?1", [owner.as_str()], |row| row.get(0))
            .optional()?;
        Ok(found.flatten())
    }
}

impl Writer<'_> {
    /// Records the address that authentication gives for a known owner.
    pub fn keep_mail(&self, owner: &Owner, address: &str) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE user SET mail = ?2 WHERE canonical = ?1 AND mail IS NOT ?2",
            (owner.as_str(), address),
        )?;
        Ok(())
    }

    /// Returns the owner for a canonical name found on a host. An unknown owner is registered under
    /// that name, because the host does not know the one that Apache gives.
    pub fn register_owner(&self, canonical: &UserName) -> Result<Registered, RegistryError> {
        let owner = Owner::of(canonical);
        match self.raw_name(&owner)? {
            Some(_) => Ok(Registered::Known(owner)),
            None => self.register(canonical),
        }
    }

    /// Registers a user under their canonical name; if it is known already, only compares names,
    /// without folding.
    pub fn register(&self, user: &UserName) -> Result<Registered, RegistryError> {
        self.register_with(user, Folding::Off)
    }

    /// Like [`register`](Self::register), with or without folding.
    pub fn register_with(&self, user: &UserName, folding: Folding) -> Result<Registered, RegistryError> {
        match self.person(user, folding)? {
            Person::Known(owner) => Ok(Registered::Known(owner)),
            Person::Taken(raw) => Ok(Registered::Taken(raw)),
            Person::New(owner) => {
                self.connection.execute(
                    "INSERT INTO user (canonical, raw, since, folded) VALUES (?1, ?2, ?3, ?4)",
                    (owner.as_str(), user.as_str(), self.now().unix(), folded(owner.as_str())),
                )?;
                Ok(Registered::Known(owner))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> UserName {
        text.parse().unwrap()
    }

    fn register(registry: &mut Registry, user: &str, folding: Folding) -> Registered {
        registry.write(|writer| writer.register_with(&name(user), folding)).unwrap()
    }

    #[test]
    fn two_people_never_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let (first, second) = (name("a b"), name("a_b"));
        for folding in [Folding::Off, Folding::On] {
            assert_eq!(register(&mut registry, "a b", folding), Registered::Known(Owner::of(&second)));
            assert_eq!(register(&mut registry, "a_b", folding), Registered::Taken("a b".to_owned()));
            assert_eq!(register(&mut registry, "A_B", folding), Registered::Taken("a b".to_owned()));
            let person = |user: &UserName| registry.read(|reader| reader.person(user, folding)).unwrap();
            assert_eq!(person(&second), Person::Taken("a b".to_owned()));
            assert_eq!(person(&first), Person::Known(Owner::of(&first)));
        }
    }

    #[test]
    fn spellings_of_one_name_are_never_two_people() {
        for (first, second) in [("alice", "ALICE"), ("J\u{fc}rgen M", "Ju\u{308}rgen m")] {
            let dir = tempfile::tempdir().unwrap();
            let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
            let owner = Owner::of(&name(first));
            assert_eq!(register(&mut registry, first, Folding::Off), Registered::Known(owner.clone()));
            assert_eq!(register(&mut registry, second, Folding::Off), Registered::Taken(first.to_owned()));
            assert_eq!(register(&mut registry, second, Folding::On), Registered::Known(owner.clone()));
            assert_eq!(
                registry.read(|r| r.raw_name(&owner)).unwrap().as_deref(),
                Some(first),
                "what came stays"
            );
        }
    }

    #[test]
    fn people_who_were_known_apart_stay_so_when_names_are_folded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        let mut registry = Registry::create(&file).unwrap();
        // Of those who were known before names were compared, only the oldest has a folded name.
        let users = [
            ("Alice", 9, None),
            ("alice", 5, Some("alice")),
            ("ALICE", 7, None),
            ("a\u{ad}b", 1, Some("ab")),
            ("carol", 3, Some("carol")),
        ];
        for user in users {
            let sql = "INSERT INTO user (canonical, raw, since, folded) VALUES (?1, ?1, ?2, ?3)";
            registry.connection.execute(sql, user).unwrap();
        }
        for folding in [Folding::Off, Folding::On] {
            for (user, ..) in users {
                assert_eq!(
                    register(&mut registry, user, folding),
                    Registered::Known(Owner::of(&name(user))),
                    "{user}"
                );
            }
        }
        // A later user is compared with the oldest.
        assert_eq!(register(&mut registry, "aLICE", Folding::Off), Registered::Taken("alice".to_owned()));
        assert_eq!(
            register(&mut registry, "aLICE", Folding::On),
            Registered::Known(Owner::of(&name("alice")))
        );
        let alike = ["ALICE", "Alice"].map(|later| ("alice".to_owned(), later.to_owned()));
        assert_eq!(Registry::names_alike(&file).unwrap(), alike);
    }
}
