//! Images saved by users.

use rusqlite::OptionalExtension as _;

use crate::model::lease::Moment;
use crate::model::names::{ImageName, ImageTag, PhysicalHost, SavedImage, UserName, VirtualHost, VmId};
use crate::model::size::GiB;
use crate::server::registry::user::Owner;
use crate::server::registry::{Cells, Reader, RegistryError, Writer, all};

/// A saved image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its owner.
    pub owner: Owner,
    /// Its name.
    pub name: ImageName,
    /// The host that has its file, and therefore the only one where machines can be made from it.
    pub host: PhysicalHost,
    /// The image that its machine was originally made from, which supplies template, swap and type.
    pub base: ImageTag,
    /// The size of its file.
    pub bytes: u64,
    /// The size of the partition it was taken from.
    pub disk: GiB,
    /// Whether it is shared with everyone.
    pub shared: bool,
    /// When it was saved.
    pub saved: Moment,
}

/// The number and total size of an owner's saved images. An image being saved counts with the size
/// of its machine's partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageUsage {
    /// The number of images.
    pub images: u32,
    /// Their total size, in bytes.
    pub bytes: u64,
}

impl Image {
    /// Returns the image's name in messages to its host.
    pub fn id(&self) -> SavedImage {
        SavedImage { owner: self.owner.user_name().clone(), name: self.name.clone() }
    }
}

fn read_image(mut cells: Cells<'_>) -> Result<Image, RegistryError> {
    Ok(Image {
        owner: Owner::of(&cells.parsed::<UserName>()?),
        name: cells.parsed()?,
        host: cells.parsed()?,
        base: cells.parsed()?,
        bytes: cells.number()?,
        disk: cells.number::<u32>().and_then(|n| GiB::new(n).map_err(|_| cells.corrupt(&n)))?,
        shared: cells.get()?,
        saved: Moment::from_unix(cells.get()?),
    })
}

const COLUMNS: &str = "SELECT owner, name, host, base, bytes, disk_gib, shared, saved FROM image";

impl Reader<'_> {
    /// Returns an image, whoever owns it.
    pub fn image(&self, image: &SavedImage) -> Result<Option<Image>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE owner = ?1 AND name = ?2");
        let owner = Owner::of(&image.owner);
        let params = (owner.as_str(), image.name.as_str());
        Ok(all(self.connection, &sql, params, read_image)?.into_iter().next())
    }

    /// Returns the images that a user can use: their own, newest first, then those shared by
    /// others.
    pub fn images_for(&self, owner: &Owner) -> Result<Vec<Image>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE owner = ?1 OR shared = 1 ORDER BY owner <> ?1, saved DESC, name");
        all(self.connection, &sql, [owner.as_str()], read_image)
    }

    /// Returns all images.
    pub fn images(&self) -> Result<Vec<Image>, RegistryError> {
        all(self.connection, &format!("{COLUMNS} ORDER BY owner, name"), [], read_image)
    }

    /// Returns the name of a machine that is being made from an image, if there is one.
    pub fn deploying_from(&self, image: &SavedImage) -> Result<Option<VirtualHost>, RegistryError> {
        const SQL: &str = "SELECT virtual_host FROM vm
                           WHERE from_owner = ?1 AND from_name = ?2 AND state = 'deploying'";
        let params = (image.owner.canonical(), image.name.as_str());
        let found = all(self.connection, SQL, params, |mut cells| cells.parsed())?;
        Ok(found.into_iter().next())
    }

    /// Returns the name of a live machine, other than `but`, whose disk is being saved as an image
    /// with this name.
    pub fn being_saved_as(
        &self,
        image: &SavedImage,
        but: Option<VmId>,
    ) -> Result<Option<VirtualHost>, RegistryError> {
        const SQL: &str = "SELECT virtual_host FROM vm
                           WHERE owner = ?1 AND save_as = ?2 AND id <> ?3 AND state <> 'notDeployed'";
        let but = but.map(|id| id.to_string()).unwrap_or_default();
        let params = (image.owner.canonical(), image.name.as_str(), but);
        let found = all(self.connection, SQL, params, |mut cells| cells.parsed())?;
        Ok(found.into_iter().next())
    }
}

impl Reader<'_> {
    /// Returns what an owner's saved images use, leaving out the one that the disk of machine `but`
    /// is being saved as.
    pub fn image_usage(&self, owner: &Owner, but: Option<VmId>) -> Result<ImageUsage, RegistryError> {
        const SQL: &str = "SELECT count(*), coalesce(sum(bytes), 0) FROM
                             (SELECT bytes FROM image WHERE owner = ?1
                              UNION ALL SELECT disk_gib * 1073741824 FROM vm
                              WHERE owner = ?1 AND save_as IS NOT NULL AND id <> ?2 AND state <> 'notDeployed')";
        let but = but.map(|id| id.to_string()).unwrap_or_default();
        let found = all(self.connection, SQL, (owner.as_str(), but), |mut cells| {
            Ok(ImageUsage { images: cells.number()?, bytes: cells.number()? })
        })?;
        Ok(found.into_iter().next().unwrap_or_default())
    }
}

impl Writer<'_> {
    /// Records a saved image, replacing any of the same name.
    pub fn keep_image(&self, image: &Image) -> Result<(), RegistryError> {
        self.connection.execute(
            "INSERT OR REPLACE INTO image (owner, name, host, base, bytes, disk_gib, shared, saved)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                image.owner.as_str(),
                image.name.as_str(),
                image.host.as_str(),
                image.base.as_str(),
                i64::try_from(image.bytes).unwrap_or(i64::MAX),
                image.disk.get(),
                image.shared,
                image.saved.unix(),
            ),
        )?;
        Ok(())
    }

    /// Renames an image, also in the records of machines made from it. Returns `false` if the name
    /// is taken.
    pub fn rename_image(&self, image: &SavedImage, name: &ImageName) -> Result<bool, RegistryError> {
        let owner = Owner::of(&image.owner);
        let taken: Option<i64> = self
            .connection
            .query_row(
                "SELECT 1 FROM image WHERE owner = ?1 AND name = ?2",
                (owner.as_str(), name.as_str()),
                |row| row.get(0),
            )
            .optional()?;
        if taken.is_some() {
            return Ok(false);
        }
        for sql in [
            "UPDATE image SET name = ?3 WHERE owner = ?1 AND name = ?2",
            "UPDATE vm SET from_name = ?3 WHERE from_owner = ?1 AND from_name = ?2",
        ] {
            self.connection.execute(sql, (owner.as_str(), image.name.as_str(), name.as_str()))?;
        }
        Ok(true)
    }

    /// Shares an image with everyone, or stops sharing it.
    pub fn share_image(&self, image: &SavedImage, shared: bool) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE image SET shared = ?3 WHERE owner = ?1 AND name = ?2",
            (Owner::of(&image.owner).as_str(), image.name.as_str(), shared),
        )?;
        Ok(())
    }

    /// Removes an image from the registry.
    pub fn remove_image(&self, image: &SavedImage) -> Result<(), RegistryError> {
        self.connection.execute(
            "DELETE FROM image WHERE owner = ?1 AND name = ?2",
            (Owner::of(&image.owner).as_str(), image.name.as_str()),
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::Event;
    use crate::server::registry::Registry;
    use crate::server::registry::vm::tests::entered;
    use crate::server::registry::vm::{Saving, Vm};

    fn ground() -> (tempfile::TempDir, Registry, Vm) {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::create(&dir.path().join("registry.sqlite")).unwrap();
        let vm = entered(&mut registry, "Jürgen M", "node1", "vm1");
        (dir, registry, vm)
    }

    fn image(vm: &Vm, name: &str, saved: i64) -> Image {
        Image {
            owner: vm.owner.clone(),
            name: name.parse().unwrap(),
            host: vm.physical_host.clone(),
            base: vm.spec.image.clone(),
            bytes: 5 << 30,
            disk: vm.spec.disk,
            shared: false,
            saved: Moment::from_unix(saved),
        }
    }

    fn names(images: &[Image]) -> Vec<&str> {
        images.iter().map(|image| image.name.as_str()).collect()
    }

    #[test]
    fn an_image_is_read_as_it_was_kept_and_only_by_those_who_may() {
        let (_dir, mut registry, vm) = ground();
        let bob = Owner::of(&"bob".parse().unwrap());
        let (old, new) = (image(&vm, "old", 1), image(&vm, "new", 2));
        registry
            .write(|writer| {
                writer.keep_image(&old)?;
                writer.keep_image(&new)
            })
            .unwrap();
        let read = |of: &Owner| registry.read(|reader| reader.images_for(of)).unwrap();
        assert_eq!(read(&vm.owner), [new.clone(), old.clone()]);
        assert!(read(&bob).is_empty());
        registry.write(|writer| writer.share_image(&old.id(), true)).unwrap();
        let read = |of: &Owner| registry.read(|reader| reader.images_for(of)).unwrap();
        assert_eq!(names(&read(&bob)), ["old"]);
        registry.write(|writer| writer.remove_image(&old.id())).unwrap();
        assert_eq!(registry.read(|reader| reader.image(&old.id())).unwrap(), None);
        assert_eq!(names(&registry.read(|reader| reader.images()).unwrap()), ["new"]);
    }

    #[test]
    fn a_new_name_is_nobody_else_s_and_reaches_what_was_made_from_it() {
        let (_dir, mut registry, vm) = ground();
        let (one, two) = (image(&vm, "one", 1), image(&vm, "two", 2));
        let three = "three".parse().unwrap();
        registry
            .write(|writer| {
                writer.keep_image(&one)?;
                writer.keep_image(&two)?;
                writer
                    .connection
                    .execute("UPDATE vm SET from_owner = ?1, from_name = 'one'", [vm.owner.as_str()])?;
                assert!(!writer.rename_image(&one.id(), &two.name)?);
                assert_eq!(writer.deploying_from(&one.id())?.as_ref(), Some(&vm.virtual_host));
                assert_eq!(writer.deploying_from(&two.id())?, None);
                assert!(writer.rename_image(&one.id(), &three)?);
                Ok::<_, RegistryError>(())
            })
            .unwrap();
        assert_eq!(names(&registry.read(|reader| reader.images()).unwrap()), ["three", "two"]);
        let from = registry.read(|reader| reader.vm(vm.id)).unwrap().unwrap().spec.saved.unwrap();
        assert_eq!(from.name, three);
    }

    #[test]
    fn a_name_is_taken_while_a_disk_is_being_saved_under_it() {
        let (_dir, mut registry, vm) = ground();
        let new = image(&vm, "new", 1).id();
        let ordered: Result<_, RegistryError> = registry.write(|writer| {
            let vm = writer.advance(&vm, Event::Deployed, |_| {})?.unwrap();
            writer.advance(&vm, Event::Save, |vm| {
                vm.saving = Some(Saving { name: new.name.clone(), then_terminate: true });
            })
        });
        assert!(ordered.unwrap().is_some());
        let asked = |but| registry.read(|reader| reader.being_saved_as(&new, but)).unwrap();
        assert_eq!(asked(None).as_ref(), Some(&vm.virtual_host));
        assert_eq!(asked(Some(vm.id)), None);
        let given_up: Result<_, RegistryError> = registry.write(|writer| {
            let vm = writer.vm(vm.id)?.unwrap();
            writer.advance(&vm, Event::Failed, |_| {})
        });
        let saving = given_up.unwrap().unwrap().saving.unwrap();
        assert!(!saving.then_terminate && saving.name == new.name, "{saving:?}");
    }
}
