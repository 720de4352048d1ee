//! The lab's IPv6: beside the other addresses, and like them (2001:db8::/32 is documentation's, RFC 3849).
//!
//! ```text
//!                         VIP6 2001:db8:77::1
//!   client ─ eth0 ──────── client0 ┐        ┌ primary0 ─────── eth0 ─ primary
//!   2001:db8:1::2    2001:db8:1::1 │ gateway│ 2001:db8:2::1    2001:db8:2::2
//!                                  └        ┘ shadow0 ──────── eth0 ─ shadow
//!                                             2001:db8:3::1    2001:db8:3::2
//! ```

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use anyhow::Result;

use super::{Host, Namespace};

/// The IPv6 address that clients talk to.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 1);

/// Settings of a namespace, before it has devices: addresses can be used at once, and nobody looks for routers.
const SETTINGS: [(&str, &str); 4] =
    [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")];

impl Host {
    const fn on_link(self, last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, self.net() as u16, 0, 0, 0, 0, last)
    }

    /// The host's own IPv6 address; for the gateway the one on the client's link.
    pub const fn address6(self) -> Ipv6Addr {
        match self {
            Self::Gateway => self.gateway_address6(),
            Self::Client | Self::Primary | Self::Shadow => self.on_link(2),
        }
    }

    /// The gateway's IPv6 address on the link to this host.
    pub const fn gateway_address6(self) -> Ipv6Addr {
        self.on_link(1)
    }

    /// An IPv6 address of the gateway on the link to this host that is free for source NAT.
    pub const fn nat6(self) -> Ipv6Addr {
        self.on_link(0x101)
    }
}

/// Readies a namespace.
pub(super) fn prepare(namespace: &Namespace) -> Result<()> {
    for (key, value) in SETTINGS {
        for of in ["all", "default"] {
            namespace.sysctl(&format!("ipv6/conf/{of}/{key}"), value)?;
        }
    }
    Ok(())
}

/// The lines for `ip` that give a host at the end of a link its address, and its route.
pub(super) fn configure_end(host: Host, batch: &mut String) -> Result<()> {
    writeln!(batch, "addr add {}/64 dev eth0 nodad", host.address6())?;
    writeln!(batch, "route add ::/0 via {} dev eth0", host.gateway_address6())?;
    Ok(())
}

/// The lines that give the gateway its addresses on a host's link.
pub(super) fn configure_gateway(host: Host, batch: &mut String) -> Result<()> {
    let device = host.gateway_device();
    writeln!(batch, "addr add {}/64 dev {device} nodad", host.gateway_address6())?;
    // What the gateway itself sends to a server must not come from where the legs do.
    let own = if host == Host::Client { VIP6 } else { host.nat6() };
    writeln!(batch, "addr add {own}/128 dev {device} nodad preferred_lft 0")?;
    Ok(())
}
