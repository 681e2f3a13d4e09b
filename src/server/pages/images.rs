//! `user/images`: lists saved images, and deletes, renames, shares and unshares them.

use std::collections::BTreeMap;

use serde::Serialize;
use strum::{EnumString, IntoStaticStr};

use crate::cgi::reply::{Refusal, Reply};
use crate::cgi::request::Fields;
use crate::cgi::serve::{Data, UserCall, View, WithBanner};
use crate::config::{self, Common};
use crate::model::fault::Fault;
use crate::model::names::{ImageName, SavedImage, UserName};
use crate::model::wire::{ImageAct, ImageOrder};
use crate::server::machine::quota;
use crate::server::machine::save::check_free;
use crate::server::nodes::{CallFailure, Nodes};
use crate::server::pages::access;
use crate::server::pages::naming;
use crate::server::pages::view::ImageView;
use crate::server::pages::view::{ask_again, field_fault};
use crate::server::registry::image::Image;
use crate::server::registry::user::Owner;
use crate::server::registry::vm::OnNode;
use crate::server::registry::{Reader, Registry, RegistryError, Writer};
use crate::system::log::{self, Level};

/// The page.
#[derive(Debug, Serialize)]
struct ImagesView {
    images: Vec<ImageView>,
    /// `mine` (the caller's own and shared ones) or `all`.
    scope: &'static str,
    /// The caller's usage and quota, if there is a limit.
    quota: Option<String>,
}

impl View for ImagesView {
    const TEMPLATE: &'static str = "images.html";
}

impl Data for ImagesView {
    /// One line per image (see [`ImageView::line`]).
    fn text(&self) -> String {
        self.images.iter().map(ImageView::line).collect()
    }
}

/// The confirmation page.
#[derive(Debug, Serialize)]
struct AskView {
    image: ImageView,
    /// `delete`, `rename`, `share` or `unshare`.
    act: &'static str,
    /// The value of the field for a new name.
    new_name: String,
    /// Faults of that field.
    faults: BTreeMap<&'static str, String>,
}

impl View for AskView {
    const TEMPLATE: &'static str = "image.html";
}

impl Data for AskView {
    /// The image's line, as in the list.
    fn text(&self) -> String {
        self.image.line()
    }
}

/// What was done.
#[derive(Debug, Serialize)]
struct DoneView {
    /// The image as it is now, or as it was if it has been deleted.
    image: ImageView,
    /// `deleted`, `renamed`, `shared` or `unshared`.
    done: &'static str,
}

impl Data for DoneView {
    /// The image's line, as in the list.
    fn text(&self) -> String {
        self.image.line()
    }
}

/// What can be done with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
enum Act {
    Delete,
    Rename,
    Share,
    Unshare,
}

impl Act {
    fn read(fields: &Fields) -> Result<Option<Self>, Refusal> {
        match fields.get("do") {
            None | Some("") => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| Refusal::bad_request("do is delete, rename, share or unshare.")),
        }
    }

    fn done(self) -> &'static str {
        match self {
            Self::Delete => "deleted",
            Self::Rename => "renamed",
            Self::Share => "shared",
            Self::Unshare => "unshared",
        }
    }
}

/// Serves `user/images`.
///
/// Without `do`, shows the list. Fields: `scope` (`mine`: the caller's own images, newest first,
/// and then those shared by others; `all`, for administrators); `do` (`delete`, `rename`, `share`,
/// `unshare`) with `name`, for administrators `owner`, and to rename `newName`; `token`, `format`.
/// The answer to `do` is the image (202).
///
/// # Errors
/// 400; 403 for other people's images, 404 for images that do not exist or are hidden from the
/// caller; 409 if there is an image with the new name, or while a machine is being made from the
/// image; 502 if the host can't be used, in which case nothing has changed; 503.
pub fn handle(call: &UserCall<'_>) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    fields.only(&["do", "name", "owner", "newName", "scope", "token", "format"])?;
    let all = match fields.get("scope") {
        None | Some("" | "mine") => false,
        Some("all") if call.administrator => true,
        Some("all") => return Err(Refusal::forbidden("Only administrators see the images of all.")),
        Some(_) => return Err(Refusal::bad_request("scope is mine or all.")),
    };
    let act = Act::read(fields)?;
    let common = Common::load(&config::directory())?;
    let Some(act) = act else {
        if let Some(field) = fields.names().find(|name| matches!(*name, "name" | "owner" | "newName")) {
            return Err(Refusal::bad_request(format!(
                "The field {field} goes with do: say delete, rename, share or unshare."
            )));
        }
        return list(call, &common, all);
    };
    if !call.acts {
        return call.reply(200, &page(call, &common, act, BTreeMap::new())?);
    }
    match carry_out(call, &common, act) {
        Ok(reply) => Ok(reply),
        Err(refusal) => ask_again(call, refusal, |faults| page(call, &common, act, faults)),
    }
}

fn list(call: &UserCall<'_>, common: &Common, all: bool) -> Result<Reply, Refusal> {
    let view = access::read(call, |reader| {
        let caller = access::caller(call, reader)?;
        let images = if all { reader.images()? } else { reader.images_for(&caller)? };
        let view = |image| ImageView::new(image, common, &caller, call.administrator);
        let scope = if all { "all" } else { "mine" };
        let quota = quota::images_text(call.config.quota(&call.user), reader.image_usage(&caller, None)?);
        Ok(ImagesView { images: images.iter().map(view).collect(), scope, quota })
    })?;
    call.reply(200, &view)
}

fn page(
    call: &UserCall<'_>,
    common: &Common,
    act: Act,
    faults: BTreeMap<&'static str, String>,
) -> Result<WithBanner<AskView>, Refusal> {
    access::read(call, |reader| {
        let caller = access::caller(call, reader)?;
        let image = find(call, reader, &caller)?;
        let new_name = call.request.fields.get("newName").unwrap_or(image.name.as_str()).to_owned();
        let image = ImageView::new(&image, common, &caller, call.administrator);
        Ok(AskView { image, act: act.into(), new_name, faults })
    })
}

/// Returns the image that the request names, if the caller may change it.
fn find(call: &UserCall<'_>, reader: Reader<'_>, caller: &Owner) -> Result<Image, Refusal> {
    let fields = &call.request.fields;
    let name: ImageName = fields.required("name")?;
    let owner: Option<UserName> =
        fields.get("owner").filter(|text| !text.is_empty()).map(|_| fields.required("owner")).transpose()?;
    let owner = match owner {
        Some(owner) => reader.meant(&owner, call.config.folding())?,
        None => caller.clone(),
    };
    let own = owner == *caller;
    let id = SavedImage { owner: owner.user_name().clone(), name };
    let image = reader.image(&id)?.filter(|image| own || call.administrator || image.shared);
    match image {
        Some(image) if own || call.administrator => Ok(image),
        Some(_) => Err(Refusal::forbidden(
            "This image belongs to somebody else. Only its owner or an administrator can do this.",
        )),
        None if own => Err(Refusal::not_found(format!("You have no saved image called {}.", id.name))),
        None => Err(Refusal::not_found(format!("There is no saved image {}/{}.", owner.as_str(), id.name))),
    }
}

fn carry_out(call: &UserCall<'_>, common: &Common, act: Act) -> Result<Reply, Refusal> {
    let fields = &call.request.fields;
    let new_name = match (act, fields.get("newName")) {
        (Act::Rename, _) => Some(naming::read(fields, "newName")?),
        (_, None) => None,
        (_, Some(_)) => return Err(Refusal::bad_request("The field newName goes with do=rename.")),
    };
    let mut registry = access::registry(call)?;
    let caller = registry.read(|reader| access::caller(call, reader))?;
    let find = |reader: Reader<'_>| find(call, reader, &caller);
    let image = match act {
        Act::Share | Act::Unshare => registry.write(|writer| {
            let image = find(writer.reader())?;
            let shared = act == Act::Share;
            writer.share_image(&image.id(), shared)?;
            record(writer, &image, act, "")?;
            Ok::<_, Refusal>(Image { shared, ..image })
        })?,
        Act::Delete | Act::Rename => {
            let nodes = Nodes::new(&call.config, &call.request.id)?;
            let image = registry.read(|reader| {
                let image = find(reader)?;
                check_idle(reader, &image, new_name.as_ref())?;
                Ok::<_, Refusal>(image)
            })?;
            at_its_host(&mut registry, &nodes, image, new_name)?
        }
    };
    let host = image.host.as_str();
    log::event(
        Level::Info,
        "image.changed",
        &[
            ("user", &registry.actor().who),
            ("from", &registry.actor().from),
            ("owner", &image.owner.as_str()),
            ("image", &image.id()),
            ("what", &act.done()),
            ("host", &host),
        ],
    );
    let location = if image.owner == caller { "images" } else { "images?scope=all" };
    let image = ImageView::new(&image, common, &caller, call.administrator);
    call.outcome(202, location, &DoneView { image, done: act.done() })
}

/// Checks that an image can be deleted, or renamed, now.
fn check_idle(reader: Reader<'_>, image: &Image, new_name: Option<&ImageName>) -> Result<(), Refusal> {
    if let Some(machine) = reader.deploying_from(&image.id())? {
        return Err(Refusal::conflict(format!(
            "The machine {machine} is being made from this image. Wait until that is over, and try again."
        )));
    }
    match new_name {
        Some(name) => check_free(reader, &SavedImage { name: name.clone(), ..image.id() }, None)
            .map_err(|why| naming::refusal(why, "newName")),
        None => Ok(()),
    }
}

/// Has an image's host delete it or rename it, and then updates the registry. Returns the image as
/// it is now, or as it was if it has been deleted.
fn at_its_host(
    registry: &mut Registry,
    nodes: &Nodes<'_>,
    image: Image,
    new_name: Option<ImageName>,
) -> Result<Image, Refusal> {
    let id = image.id();
    let (act, order) = match &new_name {
        Some(name) => (Act::Rename, ImageAct::Rename(name.clone())),
        None => (Act::Delete, ImageAct::Delete),
    };
    let done = nodes
        .image(&image.host, &ImageOrder { image: id.clone(), act: order })
        .map_err(|trouble| not_done(&image, act, &trouble))?;
    let kept = registry.write(|writer| {
        writer.keep_facts(&image.host, &done.host)?;
        let Some(name) = &new_name else {
            writer.remove_image(&id)?;
            record(writer, &image, act, "")?;
            return Ok::<_, Refusal>(true);
        };
        let as_renamed = SavedImage { name: name.clone(), ..id.clone() };
        let renamed =
            writer.being_saved_as(&as_renamed, None)?.is_none() && writer.rename_image(&id, name)?;
        if renamed {
            record(writer, &image, act, &format!("it is called {name} now"))?;
        }
        Ok(renamed)
    })?;
    match new_name {
        Some(name) if kept => Ok(Image { name, ..image }),
        Some(name) => {
            // A race: the owner got another image with that name, on another host.
            let renamed = SavedImage { name: name.clone(), ..id.clone() };
            let back = ImageOrder { image: renamed, act: ImageAct::Rename(id.name) };
            if let Err(trouble) = nodes.image(&image.host, &back) {
                log::event(
                    Level::Error,
                    "image.lost",
                    &[
                        ("owner", &image.owner.as_str()),
                        ("image", &back.image),
                        ("host", &image.host),
                        ("why", &trouble.fault),
                    ],
                );
            }
            Err(field_fault(409, "newName", Fault::ImageExists { name }.to_string()))
        }
        None => Ok(image),
    }
}

/// Returns the refusal for an order about an image that its host did not carry out.
fn not_done(image: &Image, act: Act, trouble: &CallFailure) -> Refusal {
    let CallFailure { fault, taken } = trouble;
    let status = fault.status();
    // It may have been done all the same; repeating it does no harm.
    let known = if *taken == OnNode::Maybe { ", as far as is known" } else { "" };
    Refusal::new(status, format!("The image {} was not {}{known}. {fault}", image.name, act.done()))
}

/// Records in the portal's history what was done with an image.
fn record(writer: &Writer<'_>, image: &Image, act: Act, detail: &str) -> Result<(), RegistryError> {
    let subject = format!("{}/{}", image.owner.as_str(), image.name);
    writer.record_about(&subject, &format!("image {}", act.done()), detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sign::tests::http_answer;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    /// Starts a node that carries out two orders, and returns them. `first` runs before it answers
    /// the first one.
    fn node(first: impl FnOnce() + Send + 'static) -> (String, std::thread::JoinHandle<Vec<ImageOrder>>) {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{{host}}:{}/cgi-bin/node", listener.local_addr().unwrap().port());
        let mut first = Some(first);
        let thread = std::thread::spawn(move || {
            let answer = || {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut received, mut buffer) = (String::new(), [0; 4096]);
                let told = loop {
                    let length = stream.read(&mut buffer).unwrap();
                    received.push_str(&String::from_utf8_lossy(&buffer[..length]));
                    let body = received.split("\r\n\r\n").nth(1).unwrap_or_default();
                    if let Ok(order) = serde_json::from_str(body) {
                        break order;
                    }
                };
                if let Some(first) = first.take() {
                    first();
                }
                let body = r#"{"host":{"memory_free":1,"memory_total":2,"disk_free":3,"disk_total":4,
                    "version":"1","common_digest":"x"}}"#;
                let key = crate::model::sign::Key::new(KEY).unwrap();
                let answer = http_answer(&received, &key, None, (200, "OK"), body);
                stream.write_all(answer.as_bytes()).unwrap();
                told
            };
            std::iter::repeat_with(answer).take(2).collect()
        });
        (url, thread)
    }

    #[test]
    fn a_new_name_that_another_image_gets_meanwhile_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registry.sqlite");
        let mut registry = Registry::create(&file).unwrap();
        let vm = crate::server::registry::vm::tests::entered(&mut registry, "alice", "localhost", "vm1");
        let image = |name: &str| Image {
            owner: vm.owner.clone(),
            name: name.parse().unwrap(),
            host: vm.physical_host.clone(),
            base: vm.spec.image.clone(),
            bytes: 5,
            disk: vm.spec.disk,
            shared: false,
            saved: crate::system::clock::now(),
        };
        let (old, other) = (image("old"), image("new"));
        registry.write(|writer| writer.keep_image(&old)).unwrap();
        let kept = other.clone();
        let (url, node) = node(move || {
            let mut registry = Registry::open(&file).unwrap();
            registry.write(|writer| writer.keep_image(&kept)).unwrap();
        });
        std::fs::write(dir.path().join("key"), KEY).unwrap();
        let text = format!(
            "[General]\nEnvUsernameVariable = 'REMOTE_USER'\nkeyFile = '{0}/key'\nnodeURL = '{url}'\n\
             registryFile = '{0}/registry.sqlite'\n",
            dir.path().display()
        );
        std::fs::write(dir.path().join("server.cfg"), text).unwrap();
        let config = config::Server::load(dir.path()).unwrap();
        let request = crate::model::names::RequestId::generate();
        let nodes = Nodes::new(&config, &request).unwrap();
        let new = Some(other.name.clone());
        let refused = at_its_host(&mut registry, &nodes, old.clone(), new).unwrap_err();
        assert_eq!((refused.status, refused.fields.len()), (409, 1));
        let told: Vec<_> = node.join().unwrap().into_iter().map(|told| (told.image.name, told.act)).collect();
        let there = (old.name.clone(), ImageAct::Rename(other.name.clone()));
        let and_back = (other.name.clone(), ImageAct::Rename(old.name.clone()));
        assert_eq!(told, [there, and_back]);
        let names: Vec<_> =
            registry.read(|reader| reader.images()).unwrap().into_iter().map(|image| image.name).collect();
        assert_eq!(names, [other.name, old.name]);
    }
}
