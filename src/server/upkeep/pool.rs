//! Watches how full hosts' thin pools are, and notifies administrators before one is full.

use crate::model::names::PhysicalHost;
use crate::model::wire::PoolFill;
use crate::server::mail::{Notice, Post};
use crate::server::registry::{RegistryError, Writer};
use crate::server::upkeep::notify::note;

/// From this percentage on, a pool is filling up.
const FILLING: u8 = 80;

/// Below this percentage, it has room again. It is less, so that a pool at the limit is reported once.
const ROOM: u8 = 75;

/// Notifies administrators if a host's pool has begun to fill up. `fill` is what the host says; without
/// it, nothing is known.
pub(super) fn watch(
    writer: &Writer<'_>,
    host: &PhysicalHost,
    fill: Option<PoolFill>,
    post: &Post<'_>,
) -> Result<(), RegistryError> {
    let Some(fill) = fill else { return Ok(()) };
    let fills = fills(fill.fuller().get(), writer.reader().pool_told(host)?);
    if !writer.keep_pool_told(host, fills)? {
        return Ok(());
    }
    let what = if fills { "thin pool is filling up" } else { "thin pool has room again" };
    writer.record_about(host.as_str(), what, &fill.to_string())?;
    if fills {
        note(post.to_administrators(writer, &Notice::PoolFills { host, fill })?, &"administrators");
    }
    Ok(())
}

fn fills(percent: u8, was_told: bool) -> bool {
    percent >= if was_told { ROOM } else { FILLING }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_at_the_limit_is_reported_once() {
        let mut told = false;
        let mut reports = 0;
        for percent in [0, 79, 80, 79, 81, 75, 100, 76, 74, 79, 80, 80] {
            let now = fills(percent, told);
            reports += u8::from(now && !told);
            told = now;
        }
        assert_eq!((reports, told), (2, true));
    }
}
