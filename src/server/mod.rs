//! Layer 2: the portal.
//!
//! From the top: [`pages`] (one file per URL of `bin/user`) and [`internal`] (the nodes' reports)
//! answer requests; [`upkeep`] is what cron starts, [`check`] is the server's part of
//! `vgrid-check`, and [`keeping`] implements `vgrid-registry`. They use [`machine`] for everything
//! about machines and [`orphans`] for what hosts have and the registry does not; [`closing`] closes
//! the portal, hosts and names. Below are the calls to nodes ([`nodes`]), the notices to owners and
//! administrators ([`mail`]), the audit log ([`audit`]) and the [`registry`].

pub mod audit;
pub mod check;
pub mod closing;
pub mod endpoints;
pub mod internal;
pub mod keeping;
pub mod machine;
pub mod mail;
pub mod nodes;
pub mod orphans;
pub mod pages;
pub mod registry;
pub mod upkeep;

use crate::cgi::reply::Refusal;

impl From<registry::RegistryError> for Refusal {
    fn from(error: registry::RegistryError) -> Self {
        match error {
            registry::RegistryError::Busy => {
                Self::busy("The portal is very busy. Nothing was done; try again in a few seconds.")
                    .logged(error)
            }
            missing @ (registry::RegistryError::Missing { .. }
            | registry::RegistryError::NotRegistry { .. }) => Self::closed(
                "The portal can't find its registry, so it can show and do nothing at present. Machines run on. \
                 Tell an administrator the number of this request.",
            )
            .logged(missing),
            other => Self::internal(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config;

    #[test]
    fn the_example_of_the_configuration_is_one_and_says_what_holds() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/server.cfg");
        let text = std::fs::read_to_string(example).unwrap();
        let load = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("server.cfg"), text).unwrap();
            config::Server::load(dir.path()).unwrap()
        };
        // Every line that is commented out must be a setting with its default value. Sentences have
        // a blank after the `#`.
        let settings: Vec<&str> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        let (given, shown) = (load(&text), load(&settings.join("\n")));
        assert_eq!(format!("{:?}", given.general), format!("{:?}", shown.general));
        assert_eq!(format!("{:?}", given.leases), format!("{:?}", shown.leases));
        assert_eq!(format!("{:?}", given.upkeep), format!("{:?}", shown.upkeep));
        // Some lines about mail are examples, because there is no default: an address, a domain,
        // the portal's URL.
        assert_eq!(
            given.mail,
            config::mail::Mail {
                env_mail_variable: None,
                domain: None,
                portal_url: None,
                ..shown.mail.clone()
            }
        );
        let with = |line: &str| {
            let mut lines = settings.clone();
            let at = lines.iter().position(|line| line.starts_with("transport = ")).unwrap();
            lines[at] = line;
            load(&lines.join("\n")).mail.outlet
        };
        for transport in ["transport = \"smtp\"", "transport = \"sendmail\""] {
            // The sender is an example, too.
            let bare = load(&format!(
                "[General]\nEnvUsernameVariable = \"REMOTE_USER\"\n[Mail]\nsender = \"vgrid@example.org\"\n{transport}\n"
            ));
            assert_eq!(bare.mail.outlet, with(transport));
        }
        let alice = "alice".parse().unwrap();
        assert_eq!(shown.mail_address(&alice).map(ToString::to_string).as_deref(), Some("alice@example.org"));
        let quota = |config: &config::Server, name: &str| config.quota(&name.parse().unwrap());
        assert_eq!((quota(&given, "bob"), quota(&shown, "bob")), <(config::Quota, config::Quota)>::default());
        assert_eq!((quota(&given, "alice").disk, quota(&shown, "alice").disk), (0, 200));
        let two = config::Quota { machines: 2, ..Default::default() };
        assert_eq!(quota(&shown, "Jürgen Müller"), two);
        assert!(shown.is_administrator(&"Jürgen Müller".parse().unwrap()));
        assert!(!given.is_administrator(&"alice".parse().unwrap()));
    }
}
