//! The socket that hears a service's packets as they pass by, from their IP headers on.
#![allow(
    unsafe_code,
    reason = "what a packet socket missed has no wrapper; tokio wants to be told who owns a socket"
)]

use std::{
    io::{self, Read as _},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use anyhow::{Context, Result, ensure};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use tokio::io::unix::AsyncFd;

use super::{Spec, Target};
use crate::tap;

/// Bytes that may wait in the kernel to be read.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Devices at most: as far as a jump of the filter reaches.
const MAX_DEVICES: usize = 128;
/// Bytes of a packet that are read: all.
const WHOLE: u32 = 1 << 18;

/// A packet socket (packet(7)) of all devices, with a filter in the kernel. It hears what goes out, too: that is where a server's
/// answers are, on the server itself.
pub(super) struct PacketSocket(Socket);

impl PacketSocket {
    /// Opens it.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, or when a device isn't there.
    pub(super) fn open(spec: &Spec) -> Result<AsyncFd<Self>> {
        ensure!(
            spec.devices.len() <= MAX_DEVICES,
            "at most {MAX_DEVICES} devices; without any, all are heard"
        );
        let devices = spec.devices.iter().map(|device| tap::index(device)).collect::<Result<Vec<_>>>()?;
        let protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))
            .context("can't open a packet socket: run this as root, or with the capability CAP_NET_RAW")?;
        socket.set_nonblocking(true)?;
        // Beyond the host's limit where that is allowed (CAP_NET_ADMIN), else up to it.
        if set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        socket
            .attach_filter(&filter(&spec.target, &devices, spec.sample))
            .context("can't attach the filter")?;
        // SAFETY: the socket is its own alone, and is open until it is dropped.
        Ok(unsafe { AsyncFd::register(Self(socket)) }?)
    }

    /// Reads a packet; its length.
    ///
    /// # Errors
    /// When none waits.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Packets that found no room since the last call.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn missed(&self) -> io::Result<u64> {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut size = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: a record of the size given.
        let done = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut size,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(stats.tp_drops.into()) }
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A place in the filter that a jump leads to.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// The next instruction.
    Next,
    /// The device is one of those that are heard.
    Heard,
    /// Not from the server's address and port.
    FromClient,
    /// The client's port is in A.
    Sampled,
    /// Passed over.
    Drop,
}

/// An instruction of classic BPF, whose jumps have names.
#[derive(Clone, Copy)]
struct Instruction {
    place: Place,
    code: u32,
    operand: u32,
    /// Where a comparison leads to that holds, and one that doesn't.
    to: [Place; 2],
}

/// How an IP header is read.
struct Family {
    ethertype: i32,
    /// Where it says what follows it.
    protocol: u32,
    /// Where its source and destination begin.
    addresses: [u32; 2],
    /// Puts its length into X.
    length: Instruction,
    /// The service's address.
    service: Vec<u32>,
}

impl Family {
    fn of(service: IpAddr) -> Self {
        use libc::{BPF_B, BPF_IMM, BPF_LDX, BPF_MSH, BPF_W};
        let heard = |code, operand| Instruction { place: Place::Heard, code, operand, to: [Place::Next; 2] };
        match service {
            IpAddr::V4(service) => Self {
                ethertype: libc::ETH_P_IP,
                protocol: 9,
                addresses: [12, 16],
                length: heard(BPF_LDX | BPF_B | BPF_MSH, 0),
                service: vec![service.to_bits()],
            },
            IpAddr::V6(service) => Self {
                ethertype: libc::ETH_P_IPV6,
                protocol: 6,
                addresses: [8, 24],
                // TCP or UDP follows at once: of what has extension headers nothing is heard, fragments among it.
                length: heard(BPF_LDX | BPF_W | BPF_IMM, 40),
                service: (0..4).rev().map(|word| (service.to_bits() >> (32 * word)) as u32).collect(),
            },
        }
    }
}

/// Lets what is of a service pass whose client's port is among one in `sample`: classic BPF (Linux,
/// Documentation/networking/filter.rst).
fn filter(target: &Target, devices: &[u32], sample: u16) -> Vec<SockFilter> {
    use Place::{Drop, FromClient, Heard, Next, Sampled};
    use libc::{
        BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_LD,
    };
    use libc::{BPF_RET, BPF_RSH, BPF_W, SKF_AD_IFINDEX, SKF_AD_OFF, SKF_AD_PROTOCOL};
    let at = |place, code, operand, to| Instruction { place, code, operand, to };
    let plain = |code, operand| at(Next, code, operand, [Next; 2]);
    let load = |size, operand| plain(BPF_LD | size | BPF_ABS, operand);
    // Ports lie behind the IP header, whose length is in X.
    let load_port = |offset| plain(BPF_LD | BPF_H | BPF_IND, offset);
    let only = |operand, no| at(Next, BPF_JMP | BPF_JEQ, operand, [Next, no]);
    let aside = |what: i32| (SKF_AD_OFF + what) as u32;
    let (family, port) = (Family::of(target.service.ip()), u32::from(target.service.port()));
    let only_service = |begin: u32, no: Place| {
        let words = (begin..).step_by(4).zip(&family.service);
        words.flat_map(|(at, word)| [load(BPF_W, at), only(*word, no)]).collect::<Vec<_>>()
    };
    let protocol = if target.datagrams.is_some() { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };

    let mut code = vec![
        load(BPF_W, aside(SKF_AD_PROTOCOL)),
        only(family.ethertype as u32, Drop),
        load(BPF_B, family.protocol),
        only(protocol as u32, Drop),
    ];
    if target.service.is_ipv4() {
        // Fragments but the first have no ports.
        code.extend([load(BPF_H, 6), at(Next, BPF_JMP | BPF_JSET, 0x1fff, [Drop, Next])]);
    }
    if !devices.is_empty() {
        code.push(load(BPF_W, aside(SKF_AD_IFINDEX)));
        code.extend(devices.iter().map(|device| at(Next, BPF_JMP | BPF_JEQ, *device, [Heard, Next])));
        code.push(at(Next, BPF_JMP | BPF_JA, 0, [Drop; 2]));
    }
    code.push(family.length);
    code.extend(only_service(family.addresses[0], FromClient));
    code.extend([
        load_port(0),
        only(port, FromClient),
        load_port(2),
        at(Next, BPF_JMP | BPF_JA, 0, [Sampled; 2]),
    ]);
    let from_client = code.len();
    code.extend(only_service(family.addresses[1], Drop));
    code[from_client].place = FromClient;
    code.extend([
        load_port(2),
        only(port, Drop),
        load_port(0),
        // Linux gives connections ports of one parity: the lowest bit says nothing.
        at(Sampled, BPF_ALU | BPF_RSH, 1, [Next; 2]),
        plain(BPF_ALU | BPF_AND, u32::from(sample) - 1),
        only(0, Drop),
        plain(BPF_RET, WHOLE),
        at(Drop, BPF_RET, 0, [Next; 2]),
    ]);
    assemble(&code)
}

/// Counts the instructions that each jump passes over.
fn assemble(code: &[Instruction]) -> Vec<SockFilter> {
    let instruction = |(n, one): (usize, &Instruction)| {
        let over = |to: Place| match to {
            Place::Next => 0,
            place => code[n + 1..].iter().position(|one| one.place == place).unwrap_or_default(),
        };
        let [yes, no] = one.to.map(over);
        // A jump without a condition has its distance in the operand.
        let operand = if one.code == libc::BPF_JMP | libc::BPF_JA { yes as u32 } else { one.operand };
        SockFilter::new(one.code as u16, yes as u8, no as u8, operand)
    };
    code.iter().enumerate().map(instruction).collect()
}
