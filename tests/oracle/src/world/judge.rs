//! Watches what the gateway lets out, against rules that hold for every packet, and from the outside: what a server has
//! acknowledged is taken from its own packets.

use std::collections::BTreeSet;

use mirror_common::{
    abi::nat,
    flow::{Flow, flow_state, leg_state, tcp},
    seq,
    switch_word::Side,
    verdict::Verdict,
};

use super::gateway::{Gateway, Outcome};
use super::owed;
use super::packet::Packet;

/// Bytes by number, from the first one on.
#[derive(Default)]
struct Stream {
    first: u32,
    bytes: Vec<u16>,
}

/// No byte yet.
const UNSEEN: u16 = 0x100;

impl Stream {
    fn begin(first: u32) -> Stream {
        Stream { first, bytes: Vec::new() }
    }

    /// Its bytes; `None` where one is missing.
    fn without_hole(&self) -> Option<Vec<u8>> {
        self.bytes.iter().map(|byte| u8::try_from(*byte).ok()).collect()
    }

    /// Whether every byte is new, or what it was. What lies before the first one is nobody's: a receiver cuts it off.
    fn agrees(&mut self, packet: &Packet) -> bool {
        let before =
            if seq::lt(packet.seq, self.first) { self.first.wrapping_sub(packet.seq) as usize } else { 0 };
        let Some(payload) = packet.payload.get(before..) else { return true };
        let at = packet.seq.wrapping_add(before as u32).wrapping_sub(self.first) as usize;
        let end = at + payload.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, UNSEEN);
        }
        let mut agrees = true;
        for (known, byte) in self.bytes[at..end].iter_mut().zip(payload) {
            agrees &= *known == UNSEEN || *known == u16::from(*byte);
            *known = u16::from(*byte);
        }
        agrees
    }
}

#[derive(Default)]
struct Leg {
    port: u32,
    /// What its server has acknowledged, in its numbers.
    acked: u32,
    /// What its server has reported above that, in its numbers.
    sacked: Vec<[u32; 2]>,
    /// What it was fed.
    stream: Stream,
    /// What its server has said, ...
    said: Option<Stream>,
    /// ... and up to where that was acknowledged.
    taken: u32,
}

impl Leg {
    /// The requests that it has answered, as far as that was acknowledged.
    fn answered(&self) -> BTreeSet<u64> {
        let Some(said) = &self.said else { return BTreeSet::new() };
        let bytes = said.bytes.len().min(self.taken.wrapping_sub(said.first) as usize);
        owed::answered(&said.bytes[..bytes].iter().map(|byte| *byte as u8).collect::<Vec<_>>())
    }
}

#[derive(Default)]
struct Watched {
    /// The client was shown a SYN-ACK.
    open: bool,
    scale: u8,
    ack: u32,
    edge: u32,
    shown: Stream,
    legs: [Leg; 2],
    /// By side: requests that legs answered which are no more.
    answered: [BTreeSet<u64>; 2],
}

/// Whether a block that the client is shown lies within what a leg has acknowledged (`acked`), and its own blocks.
fn covered(block: [u32; 2], acked: u32, offset: u32, sacked: &[[u32; 2]]) -> bool {
    let [begin, end] = block;
    let mut at = seq::max(begin, acked);
    while seq::lt(at, end) {
        let blocks = sacked.iter().map(|block| block.map(|number| number.wrapping_sub(offset)));
        let reach = blocks.filter(|[begin, _]| seq::le(*begin, at)).map(|[_, end]| end).reduce(seq::max);
        match reach {
            Some(reach) if seq::lt(at, reach) => at = reach,
            _ => return false,
        }
    }
    seq::lt(begin, end)
}

/// Whether the end of the leg that the client hears may be the connection's.
fn may_end(flow: &Flow, authority: Side) -> bool {
    let leg = flow.leg(flow.authority());
    flow.authority() == authority
        || flow.has(Flow::OPAQUE | Flow::CLIENT_FIN)
        || leg.flags & mirror_common::flow::Leg::CLOSING != 0
        || (flow.has(Flow::LAST_ASKED) && leg.answered == flow.turns)
}

/// The judge of what goes out.
#[derive(Default)]
pub struct Judge {
    flows: Vec<Watched>,
}

impl Judge {
    fn flow(&mut self, slot: u32) -> &mut Watched {
        let slot = slot as usize;
        if self.flows.len() <= slot {
            self.flows.resize_with(slot + 1, Watched::default);
        }
        &mut self.flows[slot]
    }

    /// Whether a flow's legs, by their own bytes, may owe a write's answer.
    pub fn may_owe(&mut self, slot: u32) -> bool {
        let watched = self.flow(slot);
        let bytes = |stream: &Stream| stream.bytes.iter().map(|byte| *byte as u8).collect::<Vec<_>>();
        let Some(mut sent) = owed::appends(&bytes(&watched.legs[0].stream)) else { return true };
        let Some(more) = owed::appends(&bytes(&watched.legs[1].stream)) else { return true };
        sent.extend(more);
        [0, 1].iter().any(|side| {
            let answered = watched.legs[*side].answered();
            sent.iter().any(|id| !answered.contains(id) && !watched.answered[*side].contains(id))
        })
    }

    /// Whether a flow that has ended waits for a write, and no leg owes what it, or the other, may have got whole. A read whose
    /// head is split counts as a write, too; and what chunks with a hole in them are isn't known.
    pub fn in_vain(&mut self, slot: u32, flow: &Flow) -> bool {
        let answers = flow.legs.iter().any(|leg| seq::lt(leg.sent_max, leg.parse.at));
        let waits = flow.state == flow_state::ENDED && flow.has(Flow::COUNTED) && !answers;
        waits && !flow.parse.scanner.until_close() && !self.may_owe_whole(slot)
    }

    fn may_owe_whole(&mut self, slot: u32) -> bool {
        let watched = self.flow(slot);
        let streams: Option<Vec<_>> = watched.legs.iter().map(|leg| leg.stream.without_hole()).collect();
        let Some(streams) = streams else { return true };
        let whole: BTreeSet<u64> = streams.into_iter().flat_map(owed::whole).collect();
        [0, 1].iter().any(|side| {
            let answered = watched.legs[*side].answered();
            whole.iter().any(|id| !answered.contains(id) && !watched.answered[*side].contains(id))
        })
    }

    /// A server's packet has come to the gateway.
    pub fn server_said(&mut self, packet: &Packet, side: usize, slot: u32) {
        let leg = &mut self.flow(slot).legs[side];
        let ours = nat::port(leg.port).to_be() == packet.tuple.dport;
        if !ours || !packet.is(tcp::ACK) || packet.is(tcp::RST) {
            return;
        }
        leg.acked = seq::max(leg.acked, packet.ack);
        leg.sacked.extend(&packet.sack);
        if packet.is(tcp::SYN) && leg.said.is_none() {
            leg.said = Some(Stream::begin(packet.seq.wrapping_add(1)));
            leg.taken = packet.seq.wrapping_add(1);
        } else if let Some(said) = &mut leg.said {
            said.agrees(packet);
        }
    }

    /// What the gateway made of a packet.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn look(&mut self, outcome: &Outcome, gateway: &Gateway) -> Result<(), String> {
        let Some(slot) = outcome.slot else { return Ok(()) };
        let flow = &gateway.flows[slot as usize];
        if outcome.opened {
            *self.flow(slot) = Watched::default();
        }
        for (to, packet) in &outcome.out {
            if *to < 2 {
                self.leg_gets(*to, packet, slot, flow)?;
            } else if flow.state == flow_state::OPENING && outcome.verdict == Verdict::TurnedBack {
                // A SYN with another number, where the first one's handshake isn't done: the port is used again, and the client
                // is asked whether it means that (RFC 9293, 3.5.1). Nothing else is shown before the SYN-ACK.
                if packet.flags != tcp::ACK || !packet.payload.is_empty() {
                    return Err(format!("a SYN is turned back by {packet}"));
                }
            } else {
                self.client_gets(packet, slot, flow)?;
                let word = gateway.application.word;
                if packet.is(tcp::FIN) && !may_end(flow, word.authority()) {
                    return Err(format!("the {}'s FIN is shown to the client", flow.authority().name()));
                }
            }
        }
        self.all_was_sent(slot, flow)
    }

    /// What the client is taken to have in its view was sent to it: nobody would repeat it before a timeout.
    fn all_was_sent(&mut self, slot: u32, flow: &Flow) -> Result<(), String> {
        let Watched { open, shown, .. } = self.flow(slot);
        let sent = shown.first.wrapping_add(shown.bytes.len() as u32);
        // An end takes a number, too.
        if !*open || flow.state != flow_state::OPEN || seq::le(flow.view_next, sent.wrapping_add(1)) {
            return Ok(());
        }
        Err(format!("the client's view reaches to {}; it was sent bytes up to {sent}", flow.view_next))
    }

    fn leg_gets(&mut self, side: usize, packet: &Packet, slot: u32, flow: &Flow) -> Result<(), String> {
        let watched = self.flow(slot);
        let client_seq = packet.seq.wrapping_sub(flow.legs[side].offset);
        if packet.len() > 1 && watched.open && seq::lt(client_seq, watched.ack) {
            return Err(format!("{client_seq} is forwarded, and {} was shown as acknowledged", watched.ack));
        }
        let leg = &mut watched.legs[side];
        let port = u32::from(u16::from_be(packet.tuple.sport));
        if packet.is(tcp::SYN) && (leg.port != port || leg.stream.first != packet.seq.wrapping_add(1)) {
            let first = packet.seq.wrapping_add(1);
            watched.answered[side].extend(leg.answered());
            *leg = Leg { port, acked: first, stream: Stream::begin(first), ..Leg::default() };
        }
        if leg.port == port && packet.is(tcp::ACK) && !packet.is(tcp::RST) {
            leg.taken = seq::max(leg.taken, packet.ack);
        }
        // A probe's byte lies before what the leg expects: it isn't read.
        let probes = packet.len() == 1 && seq::lt(packet.seq, leg.acked);
        if leg.port != port || probes || leg.stream.agrees(packet) {
            return Ok(());
        }
        Err(format!(
            "the {}'s number {} carries two contents",
            Side::from_bit(side as u32).name(),
            packet.seq
        ))
    }

    fn client_gets(&mut self, packet: &Packet, slot: u32, flow: &Flow) -> Result<(), String> {
        let watched = self.flow(slot);
        if packet.is(tcp::RST) {
            return Ok(());
        }
        if packet.is(tcp::SYN) {
            if !watched.open {
                watched.open = true;
                watched.scale = if packet.scale > 14 { 0 } else { packet.scale };
                watched.ack = packet.ack;
                watched.edge = packet.ack.wrapping_add(u32::from(packet.window));
                watched.shown = Stream::begin(packet.seq.wrapping_add(1));
            }
            return Ok(());
        }
        if !watched.open {
            return Err("a segment before the SYN-ACK".into());
        }
        if !watched.shown.agrees(packet) {
            return Err(format!("the client's view {} carries two contents", packet.seq));
        }
        if seq::lt(packet.ack, watched.ack) {
            return Err(format!(
                "the shown acknowledgement goes back from {} to {}",
                watched.ack, packet.ack
            ));
        }
        let edge = packet.ack.wrapping_add(u32::from(packet.window) << watched.scale);
        // The field is rounded down to the scale.
        let rounding = (1_u32 << watched.scale) - 1;
        if seq::lt(edge.wrapping_add(rounding), watched.edge) {
            return Err(format!("the shown right edge goes back from {} to {edge}", watched.edge));
        }
        watched.ack = packet.ack;
        watched.edge = seq::max(watched.edge, edge);
        for side in Side::BOTH {
            let leg = flow.leg(side);
            let least = match leg.state {
                leg_state::NONE => continue,
                leg_state::OPEN => watched.legs[side as usize].acked.wrapping_sub(leg.offset),
                _ => leg.acked,
            };
            if seq::lt(least, packet.ack) {
                return Err(format!(
                    "{} is shown as acknowledged; the {} has only {least}",
                    packet.ack,
                    side.name()
                ));
            }
            let sacked =
                if leg.state == leg_state::OPEN { &watched.legs[side as usize].sacked[..] } else { &[] };
            for block in &packet.sack {
                if !covered(*block, least, leg.offset, sacked) {
                    return Err(format!("{block:?} is shown as there; the {} has only {least}", side.name()));
                }
            }
        }
        Ok(())
    }
}
