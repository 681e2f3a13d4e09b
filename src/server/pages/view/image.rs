//! A saved image, as pages show it.

use serde::Serialize;

use super::TimeView;
use crate::config::Common;
use crate::model::size::Amount;
use crate::model::text::Row;
use crate::server::machine::image::{Named, obstacle};
use crate::server::registry::image::Image;
use crate::server::registry::user::Owner;

/// A saved image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageView {
    /// The value for `savedImage`, when the viewer uses it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub owner: String,
    /// Whether it is the viewer's own.
    pub own: bool,
    /// The host that has it.
    pub host: String,
    /// The configured image that its machine was originally made from.
    pub base: String,
    /// The size of its file, in bytes.
    pub bytes: u64,
    /// The same, for people.
    pub size: String,
    /// The smallest partition that it fits on, in GiB.
    pub disk_gib: u32,
    /// When it was saved.
    pub saved: TimeView,
    /// Whether everybody may use it.
    pub shared: bool,
    /// Why no machine can be made from it at present.
    pub obstacle: Option<String>,
    /// The form for a machine made from it.
    pub deploy_url: String,
    /// The common part of the addresses that change it; absent if the viewer may not.
    pub change_url: Option<String>,
}

impl ImageView {
    /// Describes an image as `caller` sees it.
    pub fn new(image: &Image, common: &Common, caller: &Owner, administrator: bool) -> Self {
        let own = image.owner == *caller;
        let owner = image.owner.user_name().encoded();
        let named = Named::of(&image.id(), caller);
        let id_in_url = if own { image.name.to_string() } else { format!("{owner}/{}", image.name) };
        let whose = if own { String::new() } else { format!("&owner={owner}") };
        Self {
            id: named.to_string(),
            name: image.name.to_string(),
            owner: image.owner.as_str().to_owned(),
            own,
            host: image.host.to_string(),
            base: image.base.to_string(),
            bytes: image.bytes,
            size: Amount::from_mib(image.bytes.div_ceil(1 << 20)).to_string(),
            disk_gib: image.disk.get(),
            saved: image.saved.into(),
            shared: image.shared,
            obstacle: obstacle(image, common),
            deploy_url: format!("deploy?savedImage={id_in_url}"),
            change_url: (own || administrator).then(|| format!("images?name={}{whose}", image.name)),
        }
    }

    /// Returns the image as a line for scripts, tab-separated: value for `savedImage`, owner, host,
    /// base image, size in bytes, smallest partition (GiB), when it was saved (RFC 3339), `shared`
    /// or `private`.
    pub fn line(&self) -> String {
        let Self { id, owner, host, base, bytes, disk_gib, saved, shared, .. } = self;
        let shared = if *shared { "shared" } else { "private" };
        Row::of(&[id, owner, host, base, bytes, disk_gib, &saved.iso, &shared]).line()
    }
}
