//! `make-seed`: makes the small disk that tells cloud-init about a machine.

use std::io::{self, Read as _};
use std::net::Ipv4Addr;

use crate::config::ImageSettings;
use crate::model::names::{MachineName, UserName};
use crate::model::public_keys::PublicKeys;
use crate::node::helper::failure::Failure;
use crate::node::helper::guard::MachineLock;
use crate::node::helper::host::Host;
use crate::node::helper::verbs::configure::virtual_host;
use crate::node::seed::Seed;

impl Host {
    /// Makes the machine's seed, with the public keys on standard input.
    pub fn make_seed(
        &self,
        lock: &MachineLock,
        image: &ImageSettings,
        ip: Ipv4Addr,
        user: &UserName,
    ) -> Result<(), Failure> {
        let machine = &lock.machine;
        let host = virtual_host(&machine.name)?;
        if MachineName::new(user, &host).ok().as_ref() != Some(&machine.name) {
            return Err(Failure::internal(format!("{} is no machine of {user}'s", machine.name)));
        }
        let Some(cloud_init) = self.config.cloud_init.as_ref().filter(|_| image.disk.is_some()) else {
            return Err(Failure::internal(format!("the image of {} is no whole disk", machine.name)));
        };
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(PublicKeys::MAX as u64 + 1)
            .read_to_string(&mut text)
            .map_err(|error| Failure::internal(format!("standard input: {error}")))?;
        let keys: PublicKeys = text.parse().map_err(Failure::internal)?;
        let network = cloud_init.network.as_ref();
        let seed = Seed { id: machine.id, host: &host, ip, user, keys: &keys, network };
        Ok(self.hypervisor(image.vm_type).install_seed(machine, &seed.disk())?)
    }
}
