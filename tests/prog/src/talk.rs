//! One client's connection through the stage: who says what, in numbers that are read from its slot.

use anyhow::{Context, Result};
use lab::net::Host;
use mirror_common::{
    abi::{SweepState, Tuple, backend, maps, nat},
    flow::{Flow, tcp},
    switch_word::Side,
};

use crate::{
    packet::Seg,
    stage::{PORT, Seen, Stage, VIP_RAW, silent},
};

/// The client's first sequence number.
pub const CLIENT_ISS: u32 = 1_000;
/// The servers' first sequence numbers.
pub const SERVER_ISS: [u32; 2] = [500_000, 900_000];

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// The client's addresses and ports.
    pub tuple: Tuple,
    /// Its slot.
    pub slot: u32,
}

/// The addresses of a client at `port`.
pub fn client_tuple(port: u16) -> Tuple {
    let saddr = u32::from_ne_bytes(silent(Host::Client).octets());
    Tuple { saddr, daddr: VIP_RAW, sport: port.to_be(), dport: PORT }
}

/// A SYN of a client's.
pub fn syn() -> Seg {
    Seg::new(tcp::SYN, CLIENT_ISS, 0).options(&[2, 4, 5, 0xb4])
}

/// The options of a SYN or SYN-ACK of an end that permits SACK.
const PERMITS_SACK: &[u8] = &[2, 4, 5, 0xb4, 1, 1, 4, 2];

/// A SACK option of blocks (RFC 2018, 3), behind so many NOPs, padded by NOPs to words.
pub fn blocks(nops: usize, blocks: &[[u32; 2]]) -> Vec<u8> {
    let mut option = vec![1; nops];
    option.extend([5, 2 + 8 * blocks.len() as u8]);
    option.extend(blocks.iter().flatten().flat_map(|at| at.to_be_bytes()));
    option.resize(option.len().next_multiple_of(4), 1);
    option
}

impl Talk {
    /// Sends a SYN from a new port.
    ///
    /// # Errors
    /// If the kernel refuses to run the program, or made no entry.
    pub fn begin(stage: &mut Stage) -> Result<(Self, Seen)> {
        Self::begin_with(stage, &syn())
    }

    fn begin_with(stage: &mut Stage, syn: &Seg) -> Result<(Self, Seen)> {
        let tuple = client_tuple(stage.client_port());
        let seen = stage.put(2, &syn.frame(tuple)?)?;
        let slot = stage.entry(tuple).with_context(|| format!("no flow: {:?}", seen.verdicts))?.slot();
        Ok((Self { tuple, slot }, seen))
    }

    /// Sends a SYN from a port to an address, where there is a service of the same port.
    ///
    /// # Errors
    /// If the kernel refuses to run the program, or made no entry.
    pub fn begin_at(stage: &mut Stage, addr: u32, port: u16) -> Result<(Self, Seen)> {
        let tuple = Tuple { daddr: addr, ..client_tuple(port) };
        let seen = stage.put(2, &syn().frame(tuple)?)?;
        let slot = stage.entry(tuple).with_context(|| format!("no flow: {:?}", seen.verdicts))?.slot();
        Ok((Self { tuple, slot }, seen))
    }

    /// A connection whose handshake is done, with every leg that was dialled.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn open(stage: &mut Stage) -> Result<Self> {
        let (talk, _) = Self::begin(stage)?;
        talk.opened(stage)
    }

    /// Does its handshake, with every leg that was dialled.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn opened(self, stage: &mut Stage) -> Result<Self> {
        let talk = self;
        for side in Side::BOTH {
            if talk.flow(stage)?.leg(side).port != 0 {
                talk.accept(stage, side)?;
            }
        }
        talk.confirm(stage)?;
        Ok(talk)
    }

    /// A connection with two legs whose client permits SACK, and which of the servers do; all that was seen on the way.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn sacking(stage: &mut Stage, servers: [bool; 2]) -> Result<(Self, Vec<Seen>)> {
        let (talk, syn) = Self::begin_with(stage, &syn().options(PERMITS_SACK))?;
        let mut seen = vec![syn];
        for side in Side::BOTH {
            let mut seg = talk.syn_ack(stage, side)?;
            if servers[side as usize] {
                seg = seg.options(PERMITS_SACK);
            }
            seen.push(talk.server(stage, side, &seg)?);
        }
        seen.push(talk.confirm(stage)?);
        Ok((talk, seen))
    }

    /// Its slot's value.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn flow(&self, stage: &Stage) -> Result<Flow> {
        stage.flow(self.slot)
    }

    /// A segment of the client's.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn client(&self, stage: &mut Stage, seg: &Seg) -> Result<Seen> {
        stage.put(2, &seg.frame(self.tuple)?)
    }

    /// The addresses of a side's segments.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn leg_tuple(&self, stage: &Stage, side: Side) -> Result<Tuple> {
        let id = self.flow(stage)?.leg(side).port;
        let (saddr, sport) = stage.backend(side, backend::number(id))?;
        let daddr = stage.endpoint(side as usize)?.nat;
        Ok(Tuple { saddr, daddr, sport, dport: nat::port(id).to_be() })
    }

    /// A segment of a side's server.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn server(&self, stage: &mut Stage, side: Side, seg: &Seg) -> Result<Seen> {
        let tuple = self.leg_tuple(stage, side)?;
        stage.put(side as usize, &seg.frame(tuple)?)
    }

    /// A server's SYN-ACK.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn accept(&self, stage: &mut Stage, side: Side) -> Result<Seen> {
        let seg = self.syn_ack(stage, side)?;
        self.server(stage, side, &seg)
    }

    fn syn_ack(&self, stage: &Stage, side: Side) -> Result<Seg> {
        let flow = self.flow(stage)?;
        let leg = flow.leg(side);
        let ack = leg.acked.wrapping_add(leg.offset);
        Ok(Seg::new(tcp::SYN | tcp::ACK, SERVER_ISS[side as usize], ack).options(&[2, 4, 5, 0xb4]))
    }

    /// The client acknowledges all that it was shown.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn confirm(&self, stage: &mut Stage) -> Result<Seen> {
        let seg = self.next(stage, tcp::ACK)?;
        self.client(stage, &seg)
    }

    /// The client's next segment, still without payload.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn next(&self, stage: &Stage, flags: u8) -> Result<Seg> {
        let flow = self.flow(stage)?;
        Ok(Seg::new(flags, flow.client_next, flow.view_next))
    }

    /// The client sends its next bytes.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn says(&self, stage: &mut Stage, bytes: &[u8]) -> Result<Seen> {
        let seg = self.next(stage, tcp::ACK | tcp::PSH)?.with(bytes);
        self.client(stage, &seg)
    }

    /// A server's next segment, which acknowledges all that the client sent; still without payload.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn reply(&self, stage: &Stage, side: Side, flags: u8) -> Result<Seg> {
        let flow = self.flow(stage)?;
        let leg = flow.leg(side);
        Ok(Seg::new(flags, leg.sent_max, flow.client_next.wrapping_add(leg.offset)))
    }

    /// A server sends its next bytes.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn answers(&self, stage: &mut Stage, side: Side, bytes: &[u8]) -> Result<Seen> {
        let seg = self.reply(stage, side, tcp::ACK | tcp::PSH)?.with(bytes);
        self.server(stage, side, &seg)
    }

    /// A server acknowledges all that the client sent.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn acks(&self, stage: &mut Stage, side: Side) -> Result<Seen> {
        let seg = self.reply(stage, side, tcp::ACK)?;
        self.server(stage, side, &seg)
    }

    /// A server acknowledges what the client was shown as acknowledged, with blocks by their distance from that; the option
    /// stands behind so many NOPs.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn reports(&self, stage: &mut Stage, side: Side, nops: usize, of: &[[u32; 2]]) -> Result<Seen> {
        let flow = self.flow(stage)?;
        let leg = flow.leg(side);
        let ack = flow.shown.wrapping_add(leg.offset);
        let of: Vec<_> = of.iter().map(|block| block.map(|at| ack.wrapping_add(at))).collect();
        let seg = Seg::new(tcp::ACK, leg.sent_max, ack).options(&blocks(nops, &of));
        self.server(stage, side, &seg)
    }

    /// The packets that a sweep has queued are made; `how`: bits of [`mirror_common::flow::sweep`].
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn is_due(&self, stage: &mut Stage, how: u32) -> Result<Seen> {
        let entry = stage.entry(self.tuple)?;
        stage.counts()?;
        stage.set(maps::SWEEP, 0, SweepState { how, ..SweepState::default() })?;
        stage.refill(maps::TODO, &[entry.0])?;
        let frame = self.next(stage, tcp::ACK)?.frame(self.tuple)?;
        let (action, frame, _) = stage.run_tc("mirror_emit", stage.device(2), &frame, 1)?;
        Ok(Seen { verdicts: stage.counts()?, action, frame })
    }

    /// A whole turn: a request, both answers, the client's acknowledgement.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn turn(&self, stage: &mut Stage, request: &[u8]) -> Result<()> {
        self.says(stage, request)?;
        for side in Side::BOTH {
            if self.flow(stage)?.leg(side).state == mirror_common::flow::leg_state::OPEN {
                self.answers(stage, side, ANSWER)?;
            }
        }
        self.confirm(stage)?;
        Ok(())
    }
}

/// A read.
pub const READ: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";
/// A write.
pub const WRITE: &[u8] = b"POST /a HTTP/1.1\r\nHost: shop\r\nContent-Length: 3\r\n\r\nabc";
/// A whole answer.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
