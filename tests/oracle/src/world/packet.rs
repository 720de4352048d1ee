//! A TCP segment on its way, with the addresses of this world.

use std::{fmt, rc::Rc};

use mirror_common::{
    abi::{Tuple, nat},
    flow::{
        Emit, Segment, emit,
        sack::{MAX_BLOCKS, Sack},
        tcp,
    },
    switch_word::Side,
};

/// The address that clients talk to.
pub const VIP: u32 = 100;
/// The gateway's addresses towards the servers, by side.
pub const NAT: [u32; 2] = [200, 201];
/// The servers' addresses, by side.
pub const SERVERS: [u32; 2] = [300, 301];
/// The port of the service, and of its servers.
pub const PORT: u16 = 80_u16.to_be();
/// The first client's address; the others follow.
pub const CLIENTS: u32 = 1;

/// From whom to whom a leg's segments go, by its port in the flow.
pub fn leg_tuple(side: Side, port: u32) -> Tuple {
    Tuple {
        saddr: NAT[side as usize],
        daddr: SERVERS[side as usize],
        sport: nat::port(port).to_be(),
        dport: PORT,
    }
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From whom to whom.
    pub tuple: Tuple,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// [`tcp`] flags.
    pub flags: u8,
    /// Window field.
    pub window: u16,
    /// Of a SYN; 0: no option.
    pub mss: u16,
    /// Of a SYN; [`Segment::NO_SCALE`]: no option.
    pub scale: u8,
    /// Of a SYN: with SACK-permitted.
    pub permits_sack: bool,
    /// Blocks of its SACK option; empty: it has none.
    pub sack: Vec<[u32; 2]>,
    /// Bytes.
    pub payload: Rc<[u8]>,
}

impl Packet {
    /// What an [`Emit`] asks for, made of the packet at hand. Where it keeps a SACK option, that shows `blocks`.
    pub fn made(e: &Emit, tuple: Tuple, packet: Option<&Packet>, blocks: &[[u32; 2]]) -> Packet {
        let forwards = e.kind == emit::FORWARD;
        let flags = match packet {
            Some(packet) if forwards && e.flags == 0 => packet.flags,
            _ => e.flags,
        };
        let cut = e.kind == emit::CUT;
        let payload = match packet {
            Some(packet) if forwards => packet.payload.clone(),
            Some(packet) if cut => packet.payload[usize::from(e.skip)..][..usize::from(e.mss)].into(),
            _ => [].into(),
        };
        let made = e.kind == emit::SYN;
        Packet {
            tuple,
            seq: e.seq,
            ack: e.ack,
            flags,
            window: e.window,
            mss: if made { e.mss } else { 0 },
            scale: if made { e.scale } else { Segment::NO_SCALE },
            permits_sack: made && e.permits_sack != 0,
            sack: if forwards { blocks.to_vec() } else { Vec::new() },
            payload,
        }
    }

    /// Whether a flag is set.
    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of payload.
    pub fn len(&self) -> u32 {
        self.payload.len() as u32
    }

    /// Whether it has no payload.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The SACK option as it is read. What lies behind its end is what another packet left there.
    fn option(&self) -> Sack {
        let mut sack = Sack { blocks: [[7, 1 << 20]; MAX_BLOCKS], at: 2, ..Sack::default() };
        for (to, from) in sack.blocks.iter_mut().zip(&self.sack) {
            (*to, sack.room) = (*from, sack.room + 1);
        }
        sack
    }

    /// The segment as the transition functions take it, not yet read.
    pub fn segment(&self, now_us: u64) -> Segment {
        Segment {
            seq: self.seq,
            ack: self.ack,
            payload: self.len(),
            now_ms: ((now_us / 1_000) as u32).max(1),
            now_us: now_us as u32,
            window: self.window,
            mss: self.mss,
            flags: self.flags,
            scale: self.scale,
            permits_sack: self.permits_sack.into(),
            sack: self.option(),
            ..Segment::default()
        }
    }
}

/// The other direction's addresses.
pub fn reversed(tuple: &Tuple) -> Tuple {
    Tuple { saddr: tuple.daddr, daddr: tuple.saddr, sport: tuple.dport, dport: tuple.sport }
}

fn host(addr: u32) -> String {
    match addr {
        VIP => "vip".into(),
        200 | 201 => "gateway".into(),
        300 => "primary".into(),
        301 => "shadow".into(),
        n => format!("client{n}"),
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.tuple;
        let (from, to) = (u16::from_be(t.sport), u16::from_be(t.dport));
        write!(f, "{}:{from} > {}:{to} ", host(t.saddr), host(t.daddr))?;
        let names = [(tcp::SYN, 'S'), (tcp::FIN, 'F'), (tcp::RST, 'R'), (tcp::ACK, '.')];
        for (flag, name) in names {
            if self.is(flag) {
                write!(f, "{name}")?;
            }
        }
        write!(f, " seq {}+{} ack {} win {}", self.seq, self.len(), self.ack, self.window)?;
        if self.is(tcp::SYN) {
            write!(
                f,
                " mss {} scale {}{}",
                self.mss,
                self.scale,
                if self.permits_sack { " sackOK" } else { "" }
            )?;
        }
        for [begin, end] in &self.sack {
            write!(f, " sack {begin}:{end}")?;
        }
        let line: String =
            self.payload.iter().take(24).map(|b| char::from(*b).escape_default().to_string()).collect();
        if line.is_empty() { Ok(()) } else { write!(f, " \"{line}\"") }
    }
}
