#![allow(unsafe_code, reason = "TCP_INFO has no safe interface")]
//! What the kernel counted for a connection.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// How many segments the connection has sent again.
pub(crate) fn retransmissions(socket: &impl AsFd) -> io::Result<u32> {
    Ok(info(socket)?.tcpi_total_retrans)
}

/// How many bytes of its own the other side has acknowledged.
pub(crate) fn acknowledged(socket: &impl AsFd) -> io::Result<u64> {
    Ok(info(socket)?.tcpi_bytes_acked)
}

fn info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to the struct, which is as large.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a struct of integers, zeroed before the kernel wrote to it.
    Ok(unsafe { info.assume_init() })
}
