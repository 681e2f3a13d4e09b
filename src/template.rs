//! The only module that uses tera: pages and mail for the server, machine configurations for the
//! node.

#[cfg(any(feature = "server", feature = "node"))]
use thiserror::Error;

/// Why a template could not be rendered. `Display` is for the log.
#[cfg(any(feature = "server", feature = "node"))]
#[derive(Debug, Error)]
pub enum TemplateError {
    /// The file can't be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Not a valid template, or one that uses an undefined value.
    #[error("{name}: {message}")]
    Broken {
        /// The template's name.
        name: String,
        /// What is wrong, on one line.
        message: String,
    },
}

#[cfg(any(feature = "server", feature = "node"))]
fn broken(name: &str, error: &tera::Error) -> TemplateError {
    use std::error::Error as _;
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    TemplateError::Broken { name: name.to_owned(), message }
}

#[cfg(feature = "server")]
pub mod page {
    //! Pages: `templates/page/*.html`. Each extends `layout.html`, and everything is escaped.

    use std::path::Path;

    use serde::Serialize;

    use super::{TemplateError, broken};

    /// Parses a page and the layout without rendering them.
    pub fn check(dir: &Path, page: &str) -> Result<(), TemplateError> {
        read(dir, page).map(drop)
    }

    /// Parses only this page and the layout: a CGI program renders one page and exits.
    fn read(dir: &Path, page: &str) -> Result<tera::Tera, TemplateError> {
        let read = |name: &str| {
            let file = dir.join("page").join(name);
            std::fs::read_to_string(&file).map_err(|source| TemplateError::Unreadable { file, source })
        };
        let mut tera = tera::Tera::new();
        tera.autoescape_on(vec![".html"]);
        tera.add_raw_templates([("layout.html", read("layout.html")?), (page, read(page)?)])
            .map_err(|error| broken(page, &error))?;
        Ok(tera)
    }

    /// Renders one page.
    pub fn render(dir: &Path, page: &str, context: &impl Serialize) -> Result<String, TemplateError> {
        let tera = read(dir, page)?;
        let context = tera::Context::from_serialize(context).map_err(|error| broken(page, &error))?;
        let html = tera.render(page, &context).map_err(|error| broken(page, &error));
        // The process is about to exit; dropping both took a twentieth of its run time.
        std::mem::forget((tera, context));
        html
    }
}

#[cfg(feature = "server")]
pub mod mail {
    //! Mail: a pair `templates/mail/*.txt` and `*.html` for each kind. The first line of the text
    //! is the subject. The HTML extends `layout.html` and is escaped; the text is not escaped and
    //! may include `footer.txt`.

    use std::path::Path;

    use serde::Serialize;

    use super::{TemplateError, broken};

    /// A rendered pair of templates.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Rendered {
        /// The subject, one line.
        pub subject: String,
        /// The text without the subject; ends with a newline.
        pub plain: String,
        /// The same content as HTML.
        pub html: String,
    }

    /// Parses a pair without rendering it.
    pub fn check(dir: &Path, kind: &str) -> Result<(), TemplateError> {
        read(dir, kind).map(drop)
    }

    fn names(kind: &str) -> [String; 4] {
        [format!("{kind}.txt"), format!("{kind}.html"), "footer.txt".to_owned(), "layout.html".to_owned()]
    }

    fn read(dir: &Path, kind: &str) -> Result<tera::Tera, TemplateError> {
        let mut sources = Vec::new();
        for name in names(kind) {
            let file = dir.join("mail").join(&name);
            let text = std::fs::read_to_string(&file)
                .map_err(|source| TemplateError::Unreadable { file, source })?;
            sources.push((name, text));
        }
        let mut tera = tera::Tera::new();
        tera.autoescape_on(vec![".html"]);
        tera.add_raw_templates(sources).map_err(|error| broken(kind, &error))?;
        Ok(tera)
    }

    /// Renders one mail.
    pub fn render(dir: &Path, kind: &str, context: &impl Serialize) -> Result<Rendered, TemplateError> {
        let tera = read(dir, kind)?;
        let context = tera::Context::from_serialize(context).map_err(|error| broken(kind, &error))?;
        let [text, html, ..] = names(kind);
        let render = |name: &str| tera.render(name, &context).map_err(|error| broken(name, &error));
        let whole = render(&text)?;
        let (subject, plain) = whole.split_once('\n').unwrap_or((&whole, ""));
        // Collapse the empty lines that omitted parts of a template leave behind.
        let mut lines: Vec<&str> =
            plain.lines().map(|line| if line == "-- " { line } else { line.trim_end() }).collect();
        lines.dedup_by(|next, line| next.is_empty() && line.is_empty());
        let plain = lines.join("\n").trim().to_owned() + "\n";
        Ok(Rendered { subject: subject.trim().to_owned(), plain, html: render(&html)? })
    }
}

#[cfg(feature = "node")]
pub mod machine {
    //! Machine configurations: `vmtmpl/*`, with placeholders `${name}` or `$name`; `$$` is a dollar
    //! sign (the syntax of Python's `string.Template`, which vGrid used to use).

    use std::path::Path;

    use serde::Serialize;

    use super::{TemplateError, broken};

    /// The values of the placeholders. `${vmIP}` is another spelling of `${vmIp}`.
    #[derive(Debug, Clone, Serialize)]
    pub struct Values {
        /// `${machinename}`: the domain's name.
        pub machinename: String,
        /// `${vmIp}`: the IPv4 address.
        #[serde(rename = "vmIp")]
        pub vm_ip: String,
        /// `${vmHostname}`: the virtual host name.
        #[serde(rename = "vmHostname")]
        pub vm_hostname: String,
        /// `${vmMemory}`: MiB.
        #[serde(rename = "vmMemory")]
        pub vm_memory: u32,
        /// `${vmCPUs}`: the number of virtual processors.
        #[serde(rename = "vmCPUs")]
        pub vm_cpus: u32,
        /// `${username}`: percent-encoded.
        pub username: String,
        /// `${vmExtra}`: the value in `[VirtualHostsPool]` for the host name.
        #[serde(rename = "vmExtra")]
        pub vm_extra: String,
        /// `${volumegroup}`: the volume group of the machine's volumes.
        pub volumegroup: String,
        /// `${vmMAC}`: the address of the network card.
        #[serde(rename = "vmMAC")]
        pub vm_mac: String,
        /// What only a machine of libvirt's has.
        #[serde(flatten)]
        pub libvirt: LibvirtValues,
    }

    /// The values of the placeholders for what only a machine of libvirt's has; empty for others.
    #[derive(Debug, Clone, Default, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub struct LibvirtValues {
        /// `${vmUUID}`: the machine's id.
        #[serde(rename = "vmUUID")]
        pub vm_uuid: String,
        /// `${domainType}`: `kvm`, or `qemu` for an emulated processor.
        pub domain_type: String,
        /// `${cpuMode}`: `maximum`, or `custom` for an emulated processor.
        pub cpu_mode: String,
        /// `${bootLoader}`: the path of the GRUB that machines boot by.
        pub boot_loader: String,
        /// `${rootDisk}`: the path of the root disk.
        pub root_disk: String,
        /// `${swapDisk}`: the path of the swap disk.
        pub swap_disk: String,
        /// `${diskType}`: `file` or `block`.
        pub disk_type: String,
        /// `${diskAttribute}`: the attribute that names the disk, `file` or `dev`.
        pub disk_attribute: String,
        /// `${diskDriver}`: what serves the disk to the machine, `qemu` or Xen's `phy`.
        pub disk_driver: String,
        /// `${consoleLog}`: the path of the file to which the console is logged.
        pub console_log: String,
        /// `${seedDisk}`: the path of the disk that tells cloud-init about the machine.
        pub seed_disk: String,
    }

    /// The placeholders that a template may use.
    pub const PLACEHOLDERS: [&str; 21] = [
        "machinename",
        "vmIp",
        "vmIP",
        "vmHostname",
        "vmMemory",
        "vmCPUs",
        "username",
        "vmExtra",
        "volumegroup",
        "vmUUID",
        "domainType",
        "cpuMode",
        "bootLoader",
        "rootDisk",
        "swapDisk",
        "diskType",
        "diskAttribute",
        "diskDriver",
        "consoleLog",
        "vmMAC",
        "seedDisk",
    ];

    // tera's delimiters are exactly two bytes. Control characters can't occur in a template, so
    // every printable sequence (braces, percent signs) remains literal text.
    const OPEN: &str = "\u{1}{";
    const CLOSE: &str = "}\u{1}";

    /// Renders a template file.
    pub fn render_file(file: &Path, values: &Values) -> Result<String, TemplateError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| TemplateError::Unreadable { file: file.to_owned(), source })?;
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        render(&name, &text, values)
    }

    /// Renders a template's text. In a template whose name ends in `.xml`, the values are escaped
    /// for XML.
    pub fn render(name: &str, text: &str, values: &Values) -> Result<String, TemplateError> {
        let source =
            rewrite(text).map_err(|message| TemplateError::Broken { name: name.to_owned(), message })?;
        let mut tera = tera::Tera::new();
        tera.set_delimiters(tera::Delimiters {
            block_start: "\u{2}{".into(),
            block_end: "}\u{2}".into(),
            variable_start: OPEN.into(),
            variable_end: CLOSE.into(),
            comment_start: "\u{3}{".into(),
            comment_end: "}\u{3}".into(),
        })
        .map_err(|error| broken(name, &error))?;
        let is_xml = Path::new(name).extension().is_some_and(|extension| extension == "xml");
        tera.set_escape_fn(if is_xml { escape_xml } else { escape });
        tera.autoescape_on(vec![""]);
        tera.add_raw_template(name, &source).map_err(|error| broken(name, &error))?;
        let context = tera::Context::from_serialize(values).map_err(|error| broken(name, &error))?;
        tera.render(name, &context).map_err(|error| broken(name, &error))
    }

    /// Escapes a value for a place inside quotes, which `xl` reads with backslash escapes and `xm`
    /// as Python.
    fn escape(text: &str, output: &mut dyn std::io::Write) -> std::io::Result<()> {
        for &byte in text.as_bytes() {
            match byte {
                b'\\' | b'"' | b'\'' => output.write_all(&[b'\\', byte])?,
                // The two parsers share no escape for these, and no value needs them.
                0..0x20 | 0x7f => output.write_all(b" ")?,
                _ => output.write_all(&[byte])?,
            }
        }
        Ok(())
    }

    /// Escapes a value for an attribute or text in XML.
    fn escape_xml(text: &str, output: &mut dyn std::io::Write) -> std::io::Result<()> {
        for c in text.chars() {
            match c {
                '&' => output.write_all(b"&amp;")?,
                '<' => output.write_all(b"&lt;")?,
                '>' => output.write_all(b"&gt;")?,
                '"' => output.write_all(b"&quot;")?,
                '\'' => output.write_all(b"&#39;")?,
                // XML has no escape for most of these (section 2.2), and no value needs them.
                '\0'..' ' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => output.write_all(b" ")?,
                _ => write!(output, "{c}")?,
            }
        }
        Ok(())
    }

    /// Replaces vGrid's placeholders with tera's.
    fn rewrite(text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len() + 64);
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let at = |message: String| format!("line {}: {message}", number + 1);
            if let Some(c) = line.chars().find(|&c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
                return Err(at(format!("the control character U+{:04X}", u32::from(c))));
            }
            let mut rest = line;
            while let Some(dollar) = rest.find('$') {
                out.push_str(&rest[..dollar]);
                rest = &rest[dollar + 1..];
                if let Some(after) = rest.strip_prefix('$') {
                    out.push('$');
                    rest = after;
                    continue;
                }
                let (name, after) = if let Some(braced) = rest.strip_prefix('{') {
                    braced.split_once('}').ok_or_else(|| at("`${` without `}`".to_owned()))?
                } else {
                    let end =
                        rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
                    rest.split_at(end)
                };
                if !PLACEHOLDERS.contains(&name) {
                    return Err(at(format!(
                        "unknown placeholder `${{{name}}}` (known: {}; write `$$` for a dollar sign)",
                        PLACEHOLDERS.join(", ")
                    )));
                }
                let name = if name == "vmIP" { "vmIp" } else { name };
                out.push_str(OPEN);
                out.push(' ');
                out.push_str(name);
                out.push(' ');
                out.push_str(CLOSE);
                rest = after;
            }
            out.push_str(rest);
        }
        Ok(out)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn values() -> Values {
            Values {
                machinename: "alice_vm1".into(),
                vm_ip: "10.0.2.21".into(),
                vm_hostname: "vm1".into(),
                vm_memory: 128,
                vm_cpus: 2,
                username: "alice".into(),
                vm_extra: "quiet".into(),
                volumegroup: "vg1".into(),
                vm_mac: "52:54:0a:00:02:15".into(),
                libvirt: LibvirtValues {
                    vm_uuid: "id".into(),
                    domain_type: "kvm".into(),
                    cpu_mode: "maximum".into(),
                    boot_loader: "/boot.img".into(),
                    root_disk: "/root.raw".into(),
                    swap_disk: "/swap.raw".into(),
                    disk_type: "file".into(),
                    disk_attribute: "file".into(),
                    disk_driver: "qemu".into(),
                    console_log: "/console.log".into(),
                    seed_disk: "/seed.img".into(),
                },
            }
        }

        #[test]
        fn both_spellings_of_a_placeholder_work() {
            let text = "name = \"${machinename}\"\nmemory = $vmMemory\nvcpus = ${vmCPUs}\nextra = '${vmIp}:$vmIP {{ x }} {% y %} $$5'\n";
            assert_eq!(
                render("t", text, &values()).unwrap(),
                "name = \"alice_vm1\"\nmemory = 128\nvcpus = 2\nextra = '10.0.2.21:10.0.2.21 {{ x }} {% y %} $5'\n"
            );
        }

        #[test]
        fn every_placeholder_has_a_value() {
            let text = PLACEHOLDERS.map(|name| format!("{name}=${{{name}}}\n")).concat();
            let expected = "machinename=alice_vm1\nvmIp=10.0.2.21\nvmIP=10.0.2.21\nvmHostname=vm1\n\
                vmMemory=128\nvmCPUs=2\nusername=alice\nvmExtra=quiet\nvolumegroup=vg1\nvmUUID=id\n\
                domainType=kvm\ncpuMode=maximum\nbootLoader=/boot.img\nrootDisk=/root.raw\nswapDisk=/swap.raw\n\
                diskType=file\ndiskAttribute=file\ndiskDriver=qemu\nconsoleLog=/console.log\n\
                vmMAC=52:54:0a:00:02:15\nseedDisk=/seed.img\n";
            assert_eq!(render("t", &text, &values()).unwrap(), expected);
            assert_eq!(render("t.xml", &text, &values()).unwrap(), expected);
        }

        #[test]
        fn a_value_cannot_leave_its_place_in_xml() {
            let vm_extra = "a'\"/><x>&amp;\u{1}\u{85}\u{ffff}\n]]>ü".into();
            let hostile = Values { vm_extra, ..values() };
            assert_eq!(
                render("t.xml", "<a b='${vmExtra}'/>", &hostile).unwrap(),
                "<a b='a&#39;&quot;/&gt;&lt;x&gt;&amp;amp;    ]]&gt;ü'/>"
            );
        }

        #[test]
        fn an_unknown_placeholder_is_reported_with_its_line() {
            for (text, words) in [
                ("a\nb ${vmNane}\n", "line 2: unknown placeholder `${vmNane}`"),
                ("$", "line 1: unknown placeholder"),
                ("${vmIp", "line 1: `${` without `}`"),
                ("a\u{1}b", "line 1: the control character U+0001"),
            ] {
                let error = render("t", text, &values()).unwrap_err().to_string();
                assert!(error.contains(words), "{error}");
            }
        }

        #[test]
        fn a_value_cannot_close_its_quotes() {
            let hostile = Values { vm_extra: "a\"; import os\n'\\".into(), ..values() };
            assert_eq!(render("t", "x = '${vmExtra}'", &hostile).unwrap(), "x = 'a\\\"; import os \\'\\\\'");
        }
    }
}
