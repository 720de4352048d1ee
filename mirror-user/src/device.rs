//! Network devices: the driver behind them, and what they take off the kernel's hands.
#![allow(unsafe_code, reason = "ethtool is an ioctl")]

pub mod xdp;

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

/// `SIOCETHTOOL`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GDRVINFO`.
const GET_DRIVER: u32 = 3;
/// `ETHTOOL_SGRO`.
const SET_GRO: u32 = 0x2c;
/// `ETHTOOL_STXCSUM`.
const SET_TX_CHECKSUMS: u32 = 0x17;
/// `ETHTOOL_GFLAGS`, and `ETH_FLAG_RXVLAN` of its answer.
const GET_FLAGS: u32 = 0x25;
const TAKES_TAGS_OFF: u32 = 1 << 8;
/// Bytes of `struct ethtool_drvinfo`: the command, five strings of 32, 32, 32, 32, 32 and 12 bytes, five numbers.
const DRIVER_BYTES: usize = 4 + 32 * 5 + 12 + 5 * 4;

/// Why XDP isn't for a device that takes VLANs' tags off, below devices of those.
pub const HIDES_VLANS: &str =
    "VLANs have devices above it, and it takes their tags off before XDP could tell them apart";

/// The driver of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its name, such as `veth` or `ice`.
    pub name: String,
    /// The device lies on a bus (PCI, virtio): it is a card, or a hypervisor's.
    pub on_bus: bool,
}

/// Asks a device of this network namespace for its driver.
///
/// # Errors
/// When there is no such device, or its driver doesn't say.
pub fn driver(device: &str) -> Result<Driver> {
    let mut info = [0_u8; DRIVER_BYTES];
    info[..4].copy_from_slice(&GET_DRIVER.to_ne_bytes());
    ethtool(device, &mut info).with_context(|| format!("{device} doesn't say its driver"))?;
    // The version and the firmware's version lie between the driver's name and the bus.
    Ok(Driver { name: text(&info[4..36]), on_bus: !text(&info[100..132]).is_empty() })
}

/// Whether a device takes VLANs' tags off what it receives (`rxvlan`): a program at XDP sees the frames without them then, and
/// can't tell whose they are.
///
/// # Errors
/// When there is no such device, or it doesn't say.
pub fn takes_tags_off(device: &str) -> Result<bool> {
    let mut flags = [0_u8; 8];
    flags[..4].copy_from_slice(&GET_FLAGS.to_ne_bytes());
    ethtool(device, &mut flags).with_context(|| format!("{device} doesn't say its features"))?;
    let flags = u32::from_ne_bytes([flags[4], flags[5], flags[6], flags[7]]);
    Ok(flags & TAKES_TAGS_OFF != 0)
}

/// Merges received segments (`gro`) and leaves checksums to be filled in later (`tx`), or not.
///
/// # Errors
/// When there is no such device, or it can't.
pub fn set_offloads(device: &str, gro: bool, tx: bool) -> Result<()> {
    for (name, command, on) in [("gro", SET_GRO, gro), ("tx", SET_TX_CHECKSUMS, tx)] {
        let mut value = [0_u8; 8];
        value[..4].copy_from_slice(&command.to_ne_bytes());
        value[4..].copy_from_slice(&u32::from(on).to_ne_bytes());
        ethtool(device, &mut value).with_context(|| format!("{device} doesn't let its {name} be set"))?;
    }
    Ok(())
}

/// Asks a device of this network namespace; `message` begins with the command, and is as long as that wants it.
fn ethtool(device: &str, message: &mut [u8]) -> Result<()> {
    ensure!(device.len() < libc::IFNAMSIZ, "`{device}` is too long for a device's name");
    let socket: OwnedFd =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let mut request = [0_u8; 40];
    request[..device.len()].copy_from_slice(device.as_bytes());
    request[16..24].copy_from_slice(&(message.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: `request` is a `struct ifreq` whose pointer leads to the command's own structure; both outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, request.as_mut_ptr()) };
    if done < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}

/// A string that ends in zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(driver("no-such-dev").is_err());
        assert!(driver("a-name-that-is-too-long").is_err());
        assert!(takes_tags_off("no-such-dev").is_err());
    }

    /// Loopback has no tags to take off (`VLAN_CHALLENGED`).
    #[test]
    fn loopback_takes_no_tags_off() {
        assert!(!takes_tags_off("lo").unwrap());
    }

    #[test]
    fn a_string_ends_at_its_zero() {
        assert_eq!(text(b"veth\0\0junk"), "veth");
        assert_eq!(text(b"full"), "full");
    }
}
