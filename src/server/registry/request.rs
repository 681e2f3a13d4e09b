//! Requests for machines that can be recognized when they are repeated.

use rusqlite::OptionalExtension as _;

use crate::model::names::VmId;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::Vm;
use crate::server::registry::{Reader, RegistryError, Writer};

/// An order that was given before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The machine it created.
    pub vm: Vm,
    /// The digest of the original request.
    pub wish: String,
}

impl Reader<'_> {
    /// Returns the record of an owner's order, if it was given before.
    pub fn given(&self, owner: &Owner, order: &str) -> Result<Option<Given>, RegistryError> {
        let sql = "SELECT vm, wish FROM deploy_request WHERE owner = ?1 AND request = ?2";
        let found: Option<(String, String)> = self
            .connection
            .query_row(sql, (owner.as_str(), order), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((id, wish)) = found else { return Ok(None) };
        let corrupt = || RegistryError::Corrupt { column: "deploy_request.vm".to_owned(), value: id.clone() };
        let vm = self.vm(id.parse().map_err(|_| corrupt())?)?.ok_or_else(corrupt)?;
        Ok(Some(Given { vm, wish }))
    }
}

impl Writer<'_> {
    /// Records an order and its machine, which must exist.
    ///
    /// # Errors
    /// Also fails if the order was given before.
    pub fn remember(&self, owner: &Owner, order: &str, wish: &str, vm: VmId) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT INTO deploy_request (owner, request, wish, vm) VALUES (?1, ?2, ?3, ?4)",
            (owner.as_str(), order, wish, vm.to_string()),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::Moment;
    use crate::model::state::Event;
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;

    #[test]
    fn an_order_is_its_owner_s_and_forgotten_with_its_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "alice", "node1", "vm1");
        let kept: Result<(), RegistryError> =
            registry.write(|writer| writer.remember(&vm.owner, "a", "wish", vm.id));
        kept.unwrap();
        let given = |registry: &Registry, owner: &Owner| registry.read(|r| r.given(owner, "a")).unwrap();
        assert_eq!(given(&registry, &vm.owner), Some(Given { vm: vm.clone(), wish: "wish".to_owned() }));
        assert_eq!(given(&registry, &Owner::of(&"bob".parse().unwrap())), None);
        let twice: Result<(), RegistryError> =
            registry.write(|writer| writer.remember(&vm.owner, "a", "wish", vm.id));
        assert!(twice.is_err());
        let gone: Result<usize, RegistryError> = registry.write_at(Moment::from_unix(6), |writer| {
            let vm = writer.advance(&vm, Event::Failed, |_| {})?.unwrap();
            writer.advance(&vm, Event::Forget, |_| {})?;
            writer.prune_gone(Moment::from_unix(7))
        });
        assert_eq!(gone.unwrap(), 1);
        assert_eq!(given(&registry, &vm.owner), None);
    }
}
