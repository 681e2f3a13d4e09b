//! Layer 2: the portal.
//!
//! One module a page ([`list`], [`deploy`], [`show`], [`console`], [`terminate`]), one for stopping, starting
//! and rebooting ([`power`]), two for saved images ([`save`], [`images`]) and one for the nodes' reports ([`status`]). They stand on the [`registry`], on
//! [`placement`], on [`orders`] (what orders have in common), on [`nodes`] (calls to nodes) and on [`view`] (what
//! pages show). [`check`] has the server's part of `vgrid-check`.

pub mod access;
pub mod audit;
pub mod check;
pub mod console;
pub mod deploy;
pub mod images;
pub mod leases;
pub mod list;
pub mod nodes;
pub mod orders;
pub mod placement;
pub mod power;
pub mod registry;
pub mod save;
pub mod show;
pub mod status;
pub mod terminate;
pub mod view;

use crate::cgi::reply::Refusal;

impl From<registry::RegistryError> for Refusal {
    fn from(error: registry::RegistryError) -> Self {
        match error {
            registry::RegistryError::Busy => {
                Self::busy("The portal is very busy. Nothing was done; try again in a few seconds.")
                    .logged(error)
            }
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
        // Every line that is commented out must be a setting, and its value the default. A sentence has a
        // blank after the `#`.
        let settings: Vec<&str> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        let (given, shown) = (load(&text), load(&settings.join("\n")));
        assert_eq!(format!("{:?}", given.general), format!("{:?}", shown.general));
        assert_eq!(format!("{:?}", given.leases), format!("{:?}", shown.leases));
        assert!(shown.is_administrator(&"Jürgen Müller".parse().unwrap()));
        assert!(!given.is_administrator(&"alice".parse().unwrap()));
    }
}
