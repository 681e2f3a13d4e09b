//! Images that people saved.

use rusqlite::OptionalExtension as _;

use crate::model::lease::Moment;
use crate::model::names::{ImageName, ImageTag, PhysicalHost, SavedImage, UserName};
use crate::model::size::GiB;

use super::user::Owner;
use super::{Cells, Reader, RegistryError, Writer, all};

/// An image that somebody saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Whose it is.
    pub owner: Owner,
    /// What they call it.
    pub name: ImageName,
    /// The host that has its file, and so the only one where machines can be made from it.
    pub host: PhysicalHost,
    /// The image that its machine was once made from: template, swap and type are taken from that.
    pub base: ImageTag,
    /// The size of its file.
    pub bytes: u64,
    /// The size of the partition that it was taken from.
    pub disk: GiB,
    /// Whether all may use it.
    pub shared: bool,
    /// When it was saved.
    pub saved: Moment,
}

impl Image {
    /// The image, as messages to its host name it.
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
    /// An image, whoever asks.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses or the row is not what this program writes.
    pub fn image(&self, image: &SavedImage) -> Result<Option<Image>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE owner = ?1 AND name = ?2");
        let owner = Owner::of(&image.owner);
        let params = (owner.as_str(), image.name.as_str());
        Ok(all(self.connection, &sql, params, read_image)?.into_iter().next())
    }

    /// The images that somebody may use: their own, the newest first, and then those that others share.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn images_for(&self, owner: &Owner) -> Result<Vec<Image>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE owner = ?1 OR shared = 1 ORDER BY owner <> ?1, saved DESC, name");
        all(self.connection, &sql, [owner.as_str()], read_image)
    }

    /// All images.
    ///
    /// # Errors
    /// As for [`image`](Self::image).
    pub fn images(&self) -> Result<Vec<Image>, RegistryError> {
        all(self.connection, &format!("{COLUMNS} ORDER BY owner, name"), [], read_image)
    }
}

impl Writer<'_> {
    /// Enters an image that has been saved, in place of one of that name.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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

    /// Gives an image another name. `false` if there is one of that name.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
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
        self.connection.execute(
            "UPDATE image SET name = ?3 WHERE owner = ?1 AND name = ?2",
            (owner.as_str(), image.name.as_str(), name.as_str()),
        )?;
        Ok(true)
    }

    /// Shares an image with all, or ends that.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn share_image(&self, image: &SavedImage, shared: bool) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE image SET shared = ?3 WHERE owner = ?1 AND name = ?2",
            (Owner::of(&image.owner).as_str(), image.name.as_str(), shared),
        )?;
        Ok(())
    }

    /// Removes an image.
    ///
    /// # Errors
    /// [`RegistryError`] when SQLite refuses.
    pub fn remove_image(&self, image: &SavedImage) -> Result<(), RegistryError> {
        self.connection.execute(
            "DELETE FROM image WHERE owner = ?1 AND name = ?2",
            (Owner::of(&image.owner).as_str(), image.name.as_str()),
        )?;
        Ok(())
    }
}
