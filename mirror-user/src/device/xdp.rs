//! What drivers can do with XDP, as the kernel tells by generic netlink (linux/netdev.h).

use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketType, netlink};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, and the attributes of the answer.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// linux/netdev.h: `NETDEV_CMD_DEV_GET`, the device's index and its XDP features.
const GET_DEVICE: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_BASIC | NETDEV_XDP_ACT_REDIRECT`.
const BASIC_AND_REDIRECT: u64 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const TAKES: u64 = 4;

/// What a veth needs where XDP is at its peer, or what to do without.
pub const VETH_ADVICE: &str = "at the other end: ethtool -K DEVICE gro on tx off; or hook = \"auto\"";

/// What a device's driver can do with XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Runs programs, and can redirect.
    pub native: bool,
    /// Takes frames that are redirected to it. A veth does when its peer runs XDP or has `gro on`; a card may do so only as long
    /// as a program runs there itself.
    pub takes: bool,
}

/// Asks what a device's driver can do with XDP at the moment.
///
/// # Errors
/// When there is no such device, or this kernel doesn't say.
pub fn features(index: u32) -> Result<Features> {
    let family = ask(CONTROL, GET_FAMILY, FAMILY_NAME, b"netdev\0")?;
    let id = attribute(&family, FAMILY_ID).and_then(|bytes| bytes.get(..2)?.try_into().ok());
    let id = u16::from_ne_bytes(id.context("this kernel doesn't tell its devices' XDP features")?);
    let answer = ask(id, GET_DEVICE, DEVICE_INDEX, &index.to_ne_bytes())?;
    let features = attribute(&answer, XDP_FEATURES).and_then(|bytes| bytes.get(..8)?.try_into().ok());
    let features = u64::from_ne_bytes(features.context("the device doesn't tell its XDP features")?);
    Ok(Features { native: features & BASIC_AND_REDIRECT == BASIC_AND_REDIRECT, takes: features & TAKES != 0 })
}

/// Asks generic netlink with one attribute; returns the answer's attributes.
fn ask(family: u16, command: u8, kind: u16, value: &[u8]) -> Result<Vec<u8>> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::GENERIC))?;
    let mut attribute = Vec::new();
    attribute.extend((value.len() as u16 + 4).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    // nlmsghdr (16 bytes: length, family, NLM_F_REQUEST, sequence, port), genlmsghdr (4 bytes: command, version).
    let mut message = Vec::new();
    message.extend((20 + attribute.len() as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(1_u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attribute);
    rustix::net::send(&socket, &message, rustix::net::SendFlags::empty())?;
    let mut answer = vec![0; 16_384];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty())?;
    answer.truncate(length);
    // Type 2 is NLMSG_ERROR.
    ensure!(answer.get(4..6) != Some(&2_u16.to_ne_bytes()[..]), "generic netlink refuses");
    Ok(answer.split_off(20.min(answer.len())))
}

/// A netlink attribute's value.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others_and_broken_ones_end_the_search() {
        let bytes = [5, 0, 1, 0, 9, 0, 0, 0, 8, 0, 3, 0, 1, 2, 3, 4];
        assert_eq!(attribute(&bytes, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 1), Some(&[9][..]));
        assert_eq!(attribute(&bytes, 2), None);
        assert_eq!(attribute(&[200, 0, 1, 0, 9], 1), None);
        assert_eq!(attribute(&[0, 0, 1, 0, 9], 2), None);
    }

    /// Loopback has no XDP of its own, and says so on every kernel that is supported.
    #[test]
    fn loopback_says_that_it_has_no_native_xdp() {
        assert_eq!(features(1).unwrap(), Features { native: false, takes: false });
    }
}
