//! People: who has ever had a machine, under the name that Apache gave and the name that vGrid uses.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::model::folding::{Folding, folded};
use crate::model::names::UserName;
use crate::server::registry::{Reader, Registry, RegistryError, Writer};
use crate::system::log::{self, Level};

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
    /// They would be taken for another person, who is known by this raw name.
    Taken(String),
}

/// Who somebody is to the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// Known under this canonical name.
    Known(Owner),
    /// Nobody whom it has seen; this would be the canonical name.
    New(Owner),
    /// Somebody who would be taken for another person, who is known by this raw name.
    Taken(String),
}

/// Fills in what users are compared by, the oldest first. Who folds to the same as somebody before stays another
/// person, and is told in the log.
pub(super) fn fold_all(connection: &Connection) -> Result<(), RegistryError> {
    let mut statement = connection.prepare("SELECT canonical, raw FROM user ORDER BY since, canonical")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let users: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    let mut first: BTreeMap<String, &str> = BTreeMap::new();
    for (canonical, raw) in &users {
        let key = folded(canonical);
        if let Some(known) = first.get(&key) {
            log::event(Level::Warning, "user.ambiguous", &[("user", raw), ("known", known)]);
            continue;
        }
        connection.execute("UPDATE user SET folded = ?2 WHERE canonical = ?1", (canonical, &key))?;
        first.insert(key, raw);
    }
    Ok(())
}

impl Registry {
    /// The raw names of people who are known apart though their names fold to the same, each with the one that it
    /// is like. Nothing is made or brought up to date; a registry of an older version has not compared them yet.
    ///
    /// # Errors
    /// [`RegistryError`] when the file can't be read.
    pub fn names_alike(file: &Path) -> Result<Vec<(String, String)>, RegistryError> {
        let registry = Self::connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        if registry.version(file)? < 6 {
            return Ok(Vec::new());
        }
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

    /// Who a user is. Without folding only the very name that came first is that person; with it, every name that
    /// differs in capitals or encoding alone. A blank in place of an underscore never is the same person.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or a row is not what this program writes.
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
        // Who is known by a canonical name that was never folded: a program of an older version made the row.
        Ok(match self.raw_name(&owner)? {
            Some(raw) => Person::Taken(raw),
            None => Person::New(owner),
        })
    }
}

impl Reader<'_> {
    /// The owner whom somebody means by a name that they typed.
    ///
    /// # Errors
    /// As for [`person`](Self::person).
    pub fn meant(&self, typed: &UserName, folding: Folding) -> Result<Owner, RegistryError> {
        Ok(match self.person(typed, folding)? {
            Person::Known(owner) | Person::New(owner) => owner,
            // By the canonical name, as pages show it.
            Person::Taken(_) => Owner::of(typed),
        })
    }

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
    /// As for [`person`](Reader::person).
    pub fn register_owner(&self, canonical: &UserName) -> Result<Registered, RegistryError> {
        let owner = Owner::of(canonical);
        match self.raw_name(&owner)? {
            Some(_) => Ok(Registered::Known(owner)),
            None => self.register(canonical),
        }
    }

    /// Remembers who owns a canonical name, the first time; later only compares, without folding.
    ///
    /// # Errors
    /// As for [`person`](Reader::person).
    pub fn register(&self, user: &UserName) -> Result<Registered, RegistryError> {
        self.register_with(user, Folding::Off)
    }

    /// As [`register`](Self::register), with or without folding.
    ///
    /// # Errors
    /// As for [`person`](Reader::person).
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
    use crate::server::registry::schema;

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
        let old = Connection::open(&file).unwrap();
        old.pragma_update(None, "journal_mode", "wal").unwrap();
        for (_, step) in schema::MIGRATIONS.iter().filter(|(version, _)| *version < 6) {
            old.execute_batch(step).unwrap();
        }
        old.pragma_update(None, "user_version", 5).unwrap();
        let users = [("Alice", 9), ("alice", 5), ("ALICE", 7), ("a\u{ad}b", 1), ("carol", 3)];
        for (user, since) in users {
            old.execute("INSERT INTO user (canonical, raw, since) VALUES (?1, ?1, ?2)", (user, since))
                .unwrap();
        }
        drop(old);
        let mut registry = Registry::open(&file).unwrap();
        for folding in [Folding::Off, Folding::On] {
            for (user, _) in users {
                assert_eq!(
                    register(&mut registry, user, folding),
                    Registered::Known(Owner::of(&name(user))),
                    "{user}"
                );
            }
        }
        // Who comes later is compared with the oldest.
        assert_eq!(register(&mut registry, "aLICE", Folding::Off), Registered::Taken("alice".to_owned()));
        assert_eq!(
            register(&mut registry, "aLICE", Folding::On),
            Registered::Known(Owner::of(&name("alice")))
        );
        let alike = ["ALICE", "Alice"].map(|later| ("alice".to_owned(), later.to_owned()));
        assert_eq!(Registry::names_alike(&file).unwrap(), alike);
    }
}
