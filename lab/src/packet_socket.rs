#![allow(unsafe_code, reason = "packet sockets (AF_PACKET) have no safe interface: bind and two options")]
//! A socket that receives and sends whole Ethernet frames of one device.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes that may wait in the kernel to be read.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// A packet socket bound to a device. It doesn't see what it sent itself.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens one on `device`, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If there is no such device, or the caller lacks `CAP_NET_RAW`.
    pub fn open(device: &str) -> io::Result<Self> {
        // The protocol is 0, so that nothing arrives before the socket is bound to its device.
        // SAFETY: no pointers; the result is checked.
        let raw = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: a descriptor that was just made and that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { fd };
        socket.set(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)?;
        socket.bind(device)?;
        Ok(socket)
    }

    fn bind(&self, device: &str) -> io::Result<()> {
        let name = CString::new(device).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a string that ends with a zero byte and lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: for this struct of integers all zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointer is to a sockaddr_ll of the size given.
        check(unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), size) }).map(drop)
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let size = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the pointer is to an integer of the size given.
        check(unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, option, (&raw const value).cast(), size)
        })
        .map(drop)
    }

    /// The next frame's length, if one waits; what `buffer` has no room for is lost.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.fd, buffer) {
            Ok(length) => Ok(Some(length)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            // The device is down for now; what was to come is lost, as on a cable.
            Err(rustix::io::Errno::NETDOWN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame; `false` if there was no room or the device is down: it is lost, as on a cable.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub fn send(&self, frame: &[u8]) -> io::Result<bool> {
        use rustix::io::Errno;
        match rustix::io::write(&self.fd, frame) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NETDOWN | Errno::NXIO | Errno::MSGSIZE) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
