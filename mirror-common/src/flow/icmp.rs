//! ICMP errors about a flow's packets (RFC 792): what a router or host says of one that was sent, for the end that can do
//! something about it.
//!
//! The end that sent the packet never sees the gateway's addresses and numbers, so neither may the quoted header. Nothing of
//! the flow changes: such errors are easily forged, and TCP itself treats most as advice (RFC 5927).

use super::{Emit, Flow, Step, emit, flow_state, leg_state};
use crate::seq;
use crate::switch_word::Side;
use crate::verdict::Verdict;

/// The smallest packet that the path of a leg without authority may ask for, in bytes: IPv6's least MTU, which every tunnel
/// leaves room for. Below it would be the client's throughput to the authority that suffers.
pub const LEAST_MTU: u16 = 1_280;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Sequence number of the packet that it is about.
    pub seq: u32,
    /// Its type: [`Quote::UNREACHABLE`] and others.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// [`Quote::TOO_LARGE`]: what the next hop takes, in bytes; 0: not told.
    pub mtu: u16,
    /// IP protocol number of that packet.
    pub protocol: u8,
}

impl Quote {
    /// Type: destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code: a packet is too large for the next hop, and must not be cut (RFC 1191).
    pub const TOO_LARGE: u8 = 4;
    /// Type: time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Type: parameter problem.
    pub const PARAMETER: u8 = 12;

    /// Whether it asks for smaller packets.
    #[inline(always)]
    const fn too_large(&self) -> bool {
        self.kind == Self::UNREACHABLE && self.code == Self::TOO_LARGE
    }
}

/// An error about a packet that was sent to a side's server.
///
/// The client hears what the authority's path says. Of another leg's it hears only that packets are too large: what it is to
/// get, the client must send smaller. That such a leg can't be reached is found by its clock.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn on_leg_error(flow: &Flow, side: Side, quote: &Quote, step: &mut Step) -> u8 {
    let leg = flow.leg(side);
    let seq = quote.seq.wrapping_sub(leg.offset);
    let authority = flow.hears(side);
    let concerns = authority || (quote.too_large() && quote.mtu >= LEAST_MTU);
    let lives = flow.state == flow_state::OPENING || flow.state == flow_state::OPEN;
    // RFC 5927, 4.1. A SYN has the number before the first byte's.
    let under_way = match leg.state {
        leg_state::DIALLING => seq == leg.acked.wrapping_sub(1),
        leg_state::OPEN => seq::le(leg.acked, seq) && seq::lt(seq, flow.client_next),
        _ => false,
    };
    if concerns && lives && under_way {
        step.to_client = Emit { kind: emit::ERROR, seq, ..Emit::default() };
        step.end(Verdict::IcmpTranslated);
    } else {
        step.end(Verdict::IcmpAbsorbed);
    }
    step.verdict
}

/// An error about a packet that was sent to the client: the authority's server hears it, whose bytes they were.
#[cfg_attr(target_arch = "bpf", inline(never))]
pub fn on_client_error(flow: &Flow, quote: &Quote, step: &mut Step) -> u8 {
    let side = flow.authority();
    let leg = flow.leg(side);
    let under_way = seq::le(flow.client_acked, quote.seq) && seq::lt(quote.seq, flow.view_next);
    let seq = quote.seq.wrapping_sub(flow.delta);
    let own = flow.hears(side) && leg.state == leg_state::OPEN && seq::le(flow.shown_from, seq);
    if flow.state == flow_state::OPEN && under_way && own {
        step.to_leg[side as usize & 1] = Emit { kind: emit::ERROR, seq, port: leg.port, ..Emit::default() };
        step.end(Verdict::IcmpTranslated);
    } else {
        step.end(Verdict::IcmpAbsorbed);
    }
    step.verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both legs open, the primary has the authority; a client's byte is under way to both, a server's to the client.
    fn flow() -> Flow {
        let mut flow = Flow { state: flow_state::OPEN, client_next: 1_010, shown: 1_001, ..Flow::default() };
        (flow.client_acked, flow.view_next) = (5_000, 5_100);
        for (leg, offset) in flow.legs.iter_mut().zip([40_000, 80_000_u32]) {
            leg.state = leg_state::OPEN;
            (leg.offset, leg.acked, leg.port) = (offset, 1_001, offset);
        }
        (flow.delta, flow.shown_from) = (3_000, 1_500);
        flow
    }

    fn unreachable(seq: u32) -> Quote {
        Quote { seq, kind: Quote::UNREACHABLE, code: 1, mtu: 0, protocol: 6 }
    }

    fn too_large(seq: u32, mtu: u16) -> Quote {
        Quote { seq, kind: Quote::UNREACHABLE, code: Quote::TOO_LARGE, mtu, protocol: 6 }
    }

    fn of_leg(flow: &Flow, side: Side, quote: Quote) -> Option<u32> {
        let mut step = Step::default();
        on_leg_error(flow, side, &quote, &mut step);
        let told = step.verdict == Verdict::IcmpTranslated as u8;
        assert_eq!(told, step.to_client.kind == emit::ERROR);
        assert!(step.to_leg.iter().all(|emit| emit.kind == emit::NONE));
        told.then_some(step.to_client.seq)
    }

    #[test]
    fn the_client_hears_its_own_numbers_and_only_what_concerns_it() {
        let flow = flow();
        assert_eq!(of_leg(&flow, Side::Primary, unreachable(41_001)), Some(1_001));
        assert_eq!(of_leg(&flow, Side::Shadow, unreachable(81_001)), None, "the shadow's path is its own");
        assert_eq!(of_leg(&flow, Side::Shadow, too_large(81_001, 1_400)), Some(1_001));
        assert_eq!(of_leg(&flow, Side::Shadow, too_large(81_001, 1_279)), None, "no tunnel is so small");
        assert_eq!(of_leg(&flow, Side::Primary, too_large(41_001, 576)), Some(1_001));
        for other in [
            Quote { kind: Quote::TIME_EXCEEDED, ..too_large(81_001, 1_400) },
            Quote { code: 1, ..too_large(81_001, 1_400) },
        ] {
            assert_eq!(of_leg(&flow, Side::Shadow, other), None, "{other:?}");
        }
        for (state, told) in
            [(flow_state::OPENING, Some(1_001)), (flow_state::ENDED, None), (flow_state::FREE, None)]
        {
            let flow = Flow { state, ..flow };
            assert_eq!(of_leg(&flow, Side::Primary, unreachable(41_001)), told, "{state}");
        }
    }

    #[test]
    fn what_is_not_under_way_is_forged_or_old() {
        let mut flow = flow();
        for seq in [41_000, 41_010, 1_001, 81_001] {
            assert_eq!(of_leg(&flow, Side::Primary, unreachable(seq)), None, "{seq}");
        }
        flow.legs[0].state = leg_state::DIALLING;
        assert_eq!(of_leg(&flow, Side::Primary, unreachable(41_000)), Some(1_000), "the SYN");
        assert_eq!(of_leg(&flow, Side::Primary, unreachable(41_001)), None);
        flow.legs[0].state = leg_state::DOWN;
        assert_eq!(of_leg(&flow, Side::Primary, unreachable(41_000)), None);
    }

    #[test]
    fn the_server_whose_bytes_they_were_hears_of_the_clients_path() {
        let mut flow = flow();
        let mut step = Step::default();
        on_client_error(&flow, &too_large(5_050, 1_400), &mut step);
        let told = step.to_leg[0];
        assert_eq!((told.kind, told.seq, told.port), (emit::ERROR, 2_050, 40_000));
        assert_eq!((step.to_leg[1].kind, step.to_client.kind), (emit::NONE, emit::NONE));
        for (seq, shown_from) in [(4_999, 1_500), (5_100, 1_500), (5_050, 2_051)] {
            flow.shown_from = shown_from;
            let mut step = Step::default();
            on_client_error(&flow, &too_large(seq, 1_400), &mut step);
            assert_eq!(step.verdict, Verdict::IcmpAbsorbed as u8, "{seq} {shown_from}");
            assert_eq!(step.to_leg[0].kind, emit::NONE);
        }
    }
}
