//! Images: the files to deploy from, the directory to save to, and tar.

use std::io::Read as _;
use std::path::Path;

use super::error_output;
use super::packages::install;
use crate::check::rights::{self, WEB_USER};
use crate::check::{Finding, Problem, Verdict, WithRemedy as _};
use crate::config::{self, Common, ImageSettings};
use crate::model::fault::Fault;
use crate::model::names::ImageTag;
use crate::node::helper::as_nobody;
use crate::node::image;
use crate::node::image::disk::Image;
use crate::node::jobs::ahead::{Failed, not_prepared};

/// The installed images, with their settings.
pub type Images = Vec<(ImageTag, ImageSettings)>;

/// Finds the images of `common.cfg` on this host. It need not have all of them: one that runs KVM
/// has none for Xen.
pub fn installed(common: &Common, node: &config::Node, is_root: bool) -> Finding<Images> {
    let (mut found, mut absent, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    for (tag, _) in &common.images {
        match node.image(tag) {
            Err(missing) if missing.is_elsewhere() => absent.push(tag.as_str()),
            _ => match image_file(tag, node, is_root) {
                Ok(settings) => found.push((tag.clone(), settings)),
                Err(problem) => problems.push(problem),
            },
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.push(Problem::new(
            "node.cfg has no [VMImageFiles] for any image of common.cfg",
            "add a line, or a default, to node.cfg",
        ));
    }
    let mut note = found.iter().map(|(tag, _)| tag.as_str()).collect::<Vec<_>>().join(", ");
    if !absent.is_empty() {
        note = format!("{note}; not on this host: {}", absent.join(", "));
    }
    Finding::partial((!found.is_empty()).then_some(found), note, problems)
}

/// Checks that users' images can be saved, renamed and deleted in the image directory.
pub fn can_be_saved(folder: &Path) -> Verdict<()> {
    let path = folder.display();
    // The sticky bit keeps the web server's user from removing other users' files.
    let make = format!("install -d -o root -g {WEB_USER} -m 1775 {path}");
    rights::facts(folder, &make)?;
    if !rights::web_user_writes(folder) {
        return Err(Problem::new(
            format!("{WEB_USER} can't write to {path}, so no image can be saved"),
            make,
        ));
    }
    Ok(Finding::passed((), format!("{WEB_USER} can write to {path}")))
}

/// Checks that no image failed to be prepared ahead.
pub fn prepared(node: &config::Node) -> Verdict<()> {
    if !node.general.prepare_ahead {
        return Ok(Finding::passed((), "by deploys only (prepareAhead)"));
    }
    let failed = not_prepared(&node.general.state_directory)
        .with_remedy("rm ahead.json there; each image is then tried again")?;
    let problem = |Failed { key, at, why }: Failed| {
        let file = node.image(&key.tag).map(|image| image.file.display().to_string());
        let file = file.unwrap_or_else(|_| "its file".to_owned());
        let remedy = match why {
            Fault::NotEnoughSpace { .. } | Fault::StorageUnusable { .. } => {
                format!("make room for it, and touch {file}: then upkeep tries again")
            }
            _ => format!("look at helper.failed in the log, and replace {file}: then upkeep tries again"),
        };
        Problem::new(format!("the image {} could not be prepared at {at}: {why}", key.tag), remedy)
    };
    let problems: Vec<_> = failed.into_iter().map(problem).collect();
    Ok(Finding::partial(Some(()), "none has failed", problems))
}

/// Checks that tar can be run as nobody with the capability to read every file.
pub fn packing() -> Verdict<()> {
    let output = as_nobody("tar").arg("--version").run().map_err(|error| {
        Problem::new(
            format!("tar can't be run with few rights, so no image can be saved: {}", error_output(&error)),
            format!(
                "{} (setpriv is in it, of version 2.33 or later)",
                install("tar util-linux", "tar util-linux")
            ),
        )
    })?;
    Ok(Finding::passed((), output.text().lines().next().unwrap_or_default()))
}

/// Checks an image and returns its settings.
fn image_file(tag: &ImageTag, node: &config::Node, is_root: bool) -> Result<ImageSettings, Problem> {
    let settings = node.image(tag).with_remedy("add the line, or a default, to node.cfg")?;
    let path = settings.file.display();
    let (file, _) = image::open(&settings.file)
        .map_err(|error| format!("the file of the image {tag}, {path}: {}", rights::describe(&error)))
        .with_remedy(format!(
            "copy it there, or mend [VMImageFiles] in node.cfg, or take {tag} out of common.cfg"
        ))?;
    if let Some(format) = settings.disk {
        Image::open(file, format).map_err(|why| {
            Problem::new(
                format!("the image {tag}, {path}: {why}"),
                "take the image as its maker publishes it, named .qcow2 or .raw for what it is (qemu-img info); \
                 qemu-img convert -O qcow2 makes one file of several",
            )
        })?;
        return readable(settings, is_root);
    }
    let mut head = Vec::new();
    file.take(512)
        .read_to_end(&mut head)
        .map_err(|error| format!("{path}: {error}"))
        .with_remedy(format!("copy {path} again"))?;
    if image::Format::of(&head).is_none() {
        return Err(Problem::new(
            format!("{path} is neither a tar archive nor gzip, xz or zstd"),
            format!("make it with: tar -C ROOT -czf {path} ."),
        ));
    }
    readable(settings, is_root)
}

/// Checks that the web server's user can read an image.
fn readable(settings: ImageSettings, is_root: bool) -> Result<ImageSettings, Problem> {
    let path = settings.file.display();
    if is_root && !rights::web_user_reads(&settings.file) {
        return Err(Problem::new(
            format!("{WEB_USER} can't read {path}"),
            format!("chmod a+r {path}, and a+x its folders"),
        ));
    }
    Ok(settings)
}
