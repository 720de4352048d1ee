//! What leaves the gateway, as the hosts at its links' other ends get it.
//!
//! There an XDP program hangs that passes everything, and GRO is off. So all that arrives goes through one ring of the
//! device, whatever sent it, in order and one by one; without the program, what TC sends would go past the ring.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{Xdp, XdpMode},
};
use lab::{
    net::{Host, Lab},
    packet_socket::PacketSocket,
    wait::wait_for_some,
};

use crate::{
    live::passing,
    packet::Out,
    six::silent6,
    stage::{Hook, Stage, in_lab, lab, silent},
};

/// Ethertype of the frame that ends what a host is to get: IEEE's for local experiments.
const LAST: [u8; 2] = [0x88, 0xb5];
/// TCP's number.
const TCP: u8 = 6;
/// ICMP's number with IPv4, and with IPv6.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// How long that frame may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any frame here.
const LONGEST: usize = 2048;

/// Packet sockets at both ends of every link.
pub struct Wiretap {
    ends: Vec<End>,
}

struct End {
    host: Host,
    /// At the host.
    there: PacketSocket,
    /// At the gateway.
    here: PacketSocket,
    _passing: Ebpf,
}

/// Runs `work` as [`crate::stage::on_stage`] does, but with live frames at both hooks, and listens at the hosts.
///
/// # Errors
/// If the lab can't be built, the programs or sockets can't be had, or `work` fails.
pub fn on_tapped_stage<T: Send>(
    hook: Hook,
    work: impl FnOnce(&mut Stage, &Wiretap) -> Result<T> + Send,
) -> Result<T> {
    let lab = Host::ENDS.into_iter().fold(lab(), |lab, host| lab.offloads(host, "gro off")).up()?;
    let ends = Host::ENDS.into_iter().map(|host| End::open(&lab, host)).collect::<Result<_>>()?;
    let wiretap = Wiretap { ends };
    in_lab(&lab, hook, |stage| {
        stage.live = true;
        work(stage, &wiretap)
    })
}

impl Wiretap {
    /// The TCP packets to each silent host since the last call, in the order of [`Host::ENDS`] and of their arrival.
    ///
    /// # Errors
    /// If a packet has a wrong length or checksum, or a host gets nothing any more.
    pub fn read(&self) -> Result<Vec<Vec<Out>>> {
        self.frames(TCP)?
            .iter()
            .map(|frames| frames.iter().map(|frame| Out::parse(frame)).collect())
            .collect()
    }

    /// The frames of a protocol to each silent host since the last call, of either family, in the same order.
    ///
    /// # Errors
    /// If a host gets nothing any more.
    pub fn frames(&self, protocol: u8) -> Result<Vec<Vec<Vec<u8>>>> {
        let read = |end: &End| end.read(protocol).with_context(|| format!("what {} got", end.host));
        self.ends.iter().map(read).collect()
    }
}

impl End {
    fn open(lab: &Lab, host: Host) -> Result<Self> {
        let at_host = || -> Result<_> {
            let mut bpf = passing()?;
            let program: &mut Xdp = bpf.program_mut("bare_xdp").context("no bare_xdp")?.try_into()?;
            program.attach("eth0", XdpMode::Driver)?;
            Ok((PacketSocket::open("eth0")?, bpf))
        };
        let (there, passing) = lab.host(host).run(at_host)??;
        let here = lab.host(Host::Gateway).run(|| PacketSocket::open(host.gateway_device()))??;
        Ok(Self { host, there, here, _passing: passing })
    }

    fn read(&self, protocol: u8) -> Result<Vec<Vec<u8>>> {
        let mut last = [0; 60];
        last[..6].fill(0xff);
        last[12..14].copy_from_slice(&LAST);
        ensure!(self.here.send(&last)?, "the last frame found no room");
        let mut buffer = [0; LONGEST];
        let mut packets = Vec::new();
        wait_for_some("the last frame", PATIENCE, || {
            loop {
                match self.there.receive(&mut buffer) {
                    Ok(Some(length)) if buffer[..length].get(12..14) == Some(&LAST) => return Some(Ok(())),
                    Ok(Some(length)) => packets.extend(self.ours(&buffer[..length], protocol)),
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
        })??;
        Ok(packets)
    }

    /// A frame of the protocol to the silent host; ARP and the hosts' own traffic aren't.
    fn ours(&self, frame: &[u8], protocol: u8) -> Option<Vec<u8>> {
        let four = frame.get(12..14) == Some(&[8, 0])
            && frame.get(23) == Some(&protocol)
            && frame.get(30..34) == Some(&silent(self.host).octets());
        let number = if protocol == ICMP { ICMPV6 } else { protocol };
        let six = frame.get(12..14) == Some(&[0x86, 0xdd])
            && frame.get(20) == Some(&number)
            && frame.get(38..54) == Some(&silent6(self.host).octets());
        (four || six).then(|| frame.to_vec())
    }
}
