//! Saved images: who may use them, and whether machines can be made from them.

use std::fmt;
use std::str::FromStr;

use crate::config::Common;
use crate::model::folding::Folding;
use crate::model::names::{ImageName, NameFault, SavedImage, UserName};
use crate::server::registry::image::Image;
use crate::server::registry::user::Owner;
use crate::server::registry::{Reader, RegistryError};

/// A saved image as the field `savedImage` names it: `NAME` for the caller's own, `OWNER/NAME` for
/// anyone's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    owner: Option<UserName>,
    name: ImageName,
}

impl Named {
    /// Returns the image that `caller` means.
    pub fn by(self, caller: &Owner) -> SavedImage {
        let owner = self.owner.map_or_else(|| caller.clone(), |owner| Owner::of(&owner));
        SavedImage { owner: owner.user_name().clone(), name: self.name }
    }

    /// Replaces the owner with the name under which the registry knows them.
    pub fn resolved(self, reader: Reader<'_>, folding: Folding) -> Result<Self, RegistryError> {
        let known = |owner: UserName| reader.meant(&owner, folding).map(|owner| owner.user_name().clone());
        Ok(Self { owner: self.owner.map(known).transpose()?, name: self.name })
    }

    /// Returns the name that `caller` would use for an image.
    pub fn of(image: &SavedImage, caller: &Owner) -> Self {
        let own = Owner::of(&image.owner) == *caller;
        Self { owner: (!own).then(|| image.owner.clone()), name: image.name.clone() }
    }
}

impl FromStr for Named {
    type Err = NameFault;

    fn from_str(text: &str) -> Result<Self, NameFault> {
        match text.split_once('/') {
            Some((owner, name)) => Ok(Self { owner: Some(owner.parse()?), name: name.parse()? }),
            None => Ok(Self { owner: None, name: text.parse()? }),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Some(owner) => write!(f, "{owner}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// Returns an image if the user may make machines from it: their own, or one shared with everyone.
/// An image that exists but belongs to someone else looks the same as one that does not exist.
pub fn usable(
    reader: Reader<'_>,
    image: &SavedImage,
    caller: &Owner,
) -> Result<Option<Image>, RegistryError> {
    Ok(reader.image(image)?.filter(|image| image.shared || image.owner == *caller))
}

/// Returns why no one can make machines from an image, or `None` if they can. Does not check
/// whether its host has room.
pub fn obstacle(image: &Image, common: &Common) -> Option<String> {
    let Image { name, host, base, .. } = image;
    if !common.has_image(base) {
        return Some(format!(
            "The saved image {name} was made from the image {base}, which is not offered any more. Choose another \
             image, or tell an administrator."
        ));
    }
    if common.maximum(host).is_none_or(|maximum| maximum == 0) {
        return Some(format!(
            "The saved image {name} is on the host {host}, which takes no machines at present. Choose another image, \
             or tell an administrator."
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_from_where_one_stands() {
        let (alice, bob): (UserName, UserName) = ("alice".parse().unwrap(), "Bob B".parse().unwrap());
        let image = SavedImage { owner: alice.clone(), name: "web-1".parse().unwrap() };
        for (caller, text) in [(&alice, "web-1"), (&bob, "alice/web-1")] {
            let caller = Owner::of(caller);
            let named = Named::of(&image, &caller);
            assert_eq!(named.to_string(), text);
            assert_eq!(text.parse::<Named>().unwrap().by(&caller), image);
        }
        for bad in ["", "/", "alice/", "/web", "alice/web/1", "Web", "alice/../x", "-a", "a b"] {
            assert!(bad.parse::<Named>().is_err(), "{bad:?}");
        }
    }
}
