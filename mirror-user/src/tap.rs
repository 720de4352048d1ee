//! The TAP that holds packets: its queue keeps what the datapath puts into it; what is written back comes in again through
//! the same program.
#![allow(unsafe_code, reason = "the TUN driver is set up by ioctl")]

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, Result, ensure};

use crate::network::Network;

/// The device's name.
pub const NAME: &str = "mirror0";
/// Frames that its queue takes: what is held and not yet read.
const QUEUE: u32 = 4_096;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const IFF_TAP: i16 = 2;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// Checksums and TCP segmentation (IPv4, with ECN) left to the device.
const OFFLOADS: libc::c_ulong = 1 | 2 | 8;

/// Opens the TAP, made if it isn't there, up and persistent. Frames carry a virtio header, so that super-packets and
/// unfinished checksums survive.
///
/// # Errors
/// Without /dev/net/tun, or when the kernel refuses.
pub fn open(network: &Network) -> Result<(File, u32)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("can't open /dev/net/tun (modprobe tun; chmod 666 /dev/net/tun)")?;
    let mut request = [0_u8; 40];
    request[..NAME.len()].copy_from_slice(NAME.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
    // SAFETY: `request` is a `struct ifreq` of 40 bytes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) })
        .context("can't open the TAP mirror0: does another daemon run in this network namespace?")?;
    // SAFETY: takes a plain number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETPERSIST, 1_u64) }).context("can't keep the TAP")?;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD, OFFLOADS) })
        .context("can't set the TAP's offloads")?;
    let index = index(NAME)?;
    network
        .bring_up(index, QUEUE)
        .with_context(|| format!("can't bring {NAME} up: ip link set {NAME} up"))?;
    Ok((file, index))
}

/// A device's interface index.
///
/// # Errors
/// When there is none of that name in this network namespace.
pub fn index(device: &str) -> Result<u32> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: a string that ends in zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no device {device} here (ip link)");
    Ok(index)
}

/// Removes the TAP, if there is one.
///
/// # Errors
/// When the kernel refuses.
pub fn remove() -> Result<()> {
    match index(NAME) {
        Ok(index) => Network::open()?.remove(index).with_context(|| format!("ip link del {NAME}")),
        Err(_) => Ok(()),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
