//! Links whose frames bear VLANs' tags: the devices that hosts and gateway use are VLANs', on a pair of veth below.

use std::fmt::Write as _;
use std::str::FromStr;

use anyhow::Result;

use super::build::{ip_batch, veth};
use super::{Host, Lab};

/// Bytes of a tag in a frame.
const TAG_BYTES: u32 = 4;

/// The pair of veth of a trunk: the gateway's end, and the far one, which lies in the client's namespace.
pub const TRUNK: &str = "trunk0";

/// How the frames between gateway and hosts are tagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tags {
    /// Not at all.
    #[default]
    None,
    /// IEEE 802.1Q: a VLAN a link.
    Vlan,
    /// IEEE 802.1ad, "QinQ": a customer's VLAN within a provider's.
    QinQ,
}

impl Tags {
    /// Tags of a frame.
    const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Vlan => 1,
            Self::QinQ => 2,
        }
    }
}

impl FromStr for Tags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "vlan" => Ok(Self::Vlan),
            "qinq" => Ok(Self::QinQ),
            _ => Err(format!("{text:?} is none of none, vlan, qinq")),
        }
    }
}

/// The gateway's device on the link to a host, in any lab, and the host's own.
fn ends(host: Host) -> [(&'static str, bool); 2] {
    [(host.gateway_device(), true), ("eth0", false)]
}

/// The veth below a tagged device, in the same namespace.
pub fn below(device: &str) -> String {
    format!("{device}-b")
}

/// Makes tagged links to `hosts`, each with its own tags and MTU: over a pair of veth each, or all over one.
pub(super) fn make(lab: &Lab, hosts: &[(Host, Tags, u32)], one_trunk: bool) -> Result<()> {
    let gateway = lab.host(Host::Gateway);
    let room = |mtu: u32| mtu + 2 * TAG_BYTES;
    // The far devices are made beside their veth, and moved to their hosts.
    let far_in = |host: Host| lab.host(if one_trunk { Host::Client } else { host });
    let mut batch = String::new();
    if one_trunk {
        let mtu = room(hosts.iter().map(|(_, _, mtu)| *mtu).max().unwrap_or_default());
        let end = format!("{TRUNK} mtu {mtu}");
        veth(&mut batch, &end, &gateway, &end, &far_in(Host::Client))?;
    }
    for (host, _, mtu) in hosts.iter().filter(|_| !one_trunk) {
        let [near, far] = ends(*host).map(|(device, _)| format!("{} mtu {}", below(device), room(*mtu)));
        veth(&mut batch, &near, &gateway, &far, &far_in(*host))?;
    }
    ip_batch(None, &batch)?;
    for (host, tags, mtu) in hosts {
        for (device, at_gateway) in ends(*host) {
            let namespace = if at_gateway { gateway.clone() } else { far_in(*host) };
            let base = if one_trunk { TRUNK.to_owned() } else { below(device) };
            let mut batch = format!("link set {base} up\n");
            let name = tagged(&mut batch, &base, device, *host, *tags)?;
            if !at_gateway && one_trunk {
                writeln!(batch, "link set {name} netns {}", lab.host(*host).name())?;
            }
            ip_batch(Some(&namespace), &batch)?;
            // A name may be taken where the device was made.
            let mac = host.mac(at_gateway);
            let batch = format!("link set {name} name {device} address {mac} mtu {mtu}\n");
            let end = lab.host(if at_gateway { Host::Gateway } else { *host });
            ip_batch(Some(&end), &batch)?;
        }
    }
    Ok(())
}

/// Adds the lines that put a host's tagged device on `base`; returns its name for now.
fn tagged(batch: &mut String, base: &str, device: &str, host: Host, tags: Tags) -> Result<String> {
    let id = u32::from(host.address().octets()[2]);
    let name = format!("{device}-{id}");
    let mut under = base.to_owned();
    if tags.count() > 1 {
        under = format!("{device}-s{id}");
        writeln!(batch, "link add link {base} name {under} type vlan proto 802.1ad id {}", 100 + id)?;
        writeln!(batch, "link set {under} up")?;
    }
    writeln!(batch, "link add link {under} name {name} type vlan id {}", 10 * id)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_names_are_short_enough() {
        for host in Host::ENDS {
            for (device, _) in ends(host) {
                let mut batch = String::new();
                let name = tagged(&mut batch, &below(device), device, host, Tags::QinQ).expect("only text");
                assert!(name.len() < 16 && below(device).len() < 16 && batch.contains("802.1ad"), "{batch}");
            }
        }
    }
}
