//! Parses the fields of the form.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use super::{Declined, SAVED, SNAPSHOT};
use crate::cgi::request::Fields;
use crate::config::{Common, Leases};
use crate::model::lease::Lease;
use crate::model::names::{ImageTag, NameFault, PhysicalHost, VirtualHost};
use crate::model::text::sentence;
use crate::server::machine::create::{MachineRequest, Source};
use crate::server::machine::image::Named;
use crate::server::machine::snapshots::NamedSnapshot;

/// The value that leaves a choice to vGrid, as an empty field does.
const AUTO: &str = "auto";

/// Reads all fields, so that all faults are reported at once.
pub fn read(fields: &Fields, common: &Common, leases: &Leases) -> Result<MachineRequest, Declined> {
    let mut faults = BTreeMap::new();
    let wish = {
        let mut reading = Reading { fields, faults: &mut faults };
        // All are read before the first `?` below can return.
        let source = reading.source(common);
        let memory = reading.required("vmMemory", "Say how much memory it gets, in MiB.");
        let cpus = reading.optional("vmCPUs");
        let disk = reading.required("vmPartition", "Say how large its partition is, in GiB.");
        let host = reading.choice("physicalHost").and_then(|host: Option<PhysicalHost>| {
            let Some(host) = host else { return Ok(None) };
            let maximum = common.maximum(&host);
            let sentence = || match maximum {
                None => format!("There is no host {host}."),
                Some(_) => format!("The host {host} takes no machines at present. Choose another."),
            };
            reading.check(maximum.is_some_and(|n| n > 0), "physicalHost", sentence).map(|()| Some(host))
        });
        let name = reading.choice("vmHostname").and_then(|name: Option<VirtualHost>| {
            let Some(name) = name else { return Ok(None) };
            let sentence = || format!("There is no name {name} in the pool.");
            reading.check(common.extra(&name).is_some(), "vmHostname", sentence).map(|()| Some(name))
        });
        let label = reading.optional("vmName");
        let lease = reading.optional("expiryTime").and_then(|lease: Option<Lease>| {
            let lease = lease.unwrap_or(leases.default);
            let sentence = || format!("At most {} can be asked for.", leases.maximum);
            reading.check(lease <= leases.maximum, "expiryTime", sentence).map(|()| lease)
        });
        (|| {
            Ok::<_, Wrong>(MachineRequest {
                source: source?,
                memory: memory?,
                cpus: cpus?.unwrap_or_default(),
                disk: disk?,
                host: host?,
                name: name?,
                label: label?.unwrap_or_default(),
                lease: lease?,
            })
        })()
    };
    wish.map_err(|Wrong| Declined { status: 400, faults })
}

/// A field is invalid; its fault has been collected.
struct Wrong;

/// Reads fields and collects their faults.
struct Reading<'a> {
    fields: &'a Fields,
    faults: &'a mut BTreeMap<&'static str, String>,
}

impl Reading<'_> {
    fn required<T: FromStr<Err: Display>>(&mut self, field: &'static str, missing: &str) -> Result<T, Wrong> {
        self.optional(field)?.ok_or_else(|| {
            self.faults.insert(field, missing.to_owned());
            Wrong
        })
    }

    fn optional<T: FromStr<Err: Display>>(&mut self, field: &'static str) -> Result<Option<T>, Wrong> {
        let text = self.fields.get(field).map(str::trim).filter(|text| !text.is_empty());
        text.map(str::parse).transpose().map_err(|fault| {
            self.faults.insert(field, sentence(&fault));
            Wrong
        })
    }

    fn source(&mut self, common: &Common) -> Result<Source, Wrong> {
        let tag = self.fields.get("vmImage").map(str::trim).unwrap_or_default();
        let given = self.optional::<NamedSnapshot>("fromSnapshot")?;
        if let Some(origin) = given {
            let is_only = self.optional::<Named>("savedImage")?.is_none() && tag.is_empty();
            let sentence = || "A snapshot takes the place of an image. Leave the images empty.".to_owned();
            return self.check(is_only, "fromSnapshot", sentence).map(|()| Source::Snapshot(origin));
        }
        if let Some(origin) = tag.strip_prefix(SNAPSHOT) {
            return origin.parse().map(Source::Snapshot).map_err(|fault: NameFault| {
                self.faults.insert("fromSnapshot", sentence(&fault));
                Wrong
            });
        }
        let saved = match (self.optional("savedImage")?, tag.strip_prefix(SAVED)) {
            (Some(named), None) => return Ok(Source::Saved(named, self.optional("vmImage")?)),
            (None, Some(name)) => name,
            (Some(_), Some(_)) => {
                self.faults.insert("savedImage", "Choose one image.".to_owned());
                return Err(Wrong);
            }
            (None, None) => {
                let tag: ImageTag = self.required("vmImage", "Choose an image.")?;
                let sentence = || format!("There is no image {tag}.");
                self.check(common.has_image(&tag), "vmImage", sentence)?;
                return Ok(Source::Tag(tag));
            }
        };
        saved.parse().map(|named| Source::Saved(named, None)).map_err(|fault: NameFault| {
            self.faults.insert("savedImage", sentence(&fault));
            Wrong
        })
    }

    fn choice<T: FromStr<Err: Display>>(&mut self, field: &'static str) -> Result<Option<T>, Wrong> {
        if self.fields.get(field).is_some_and(|text| text.trim() == AUTO) {
            return Ok(None);
        }
        self.optional(field)
    }

    fn check(
        &mut self,
        holds: bool,
        field: &'static str,
        fault: impl FnOnce() -> String,
    ) -> Result<(), Wrong> {
        if holds {
            return Ok(());
        }
        self.faults.insert(field, fault());
        Err(Wrong)
    }
}
