//! ICMP errors about packets that were sent for a flow, or for an exchange. At TC alone: they are rare.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT};
use mirror_common::{
    abi::udp,
    verdict::{Action, Verdict},
};

use crate::{
    carry, count, datagram, decide, lookup,
    maps::Scratch,
    packet::{self, Skb},
    six,
};

/// What becomes of a packet that isn't TCP. Counts it.
#[inline(never)]
pub fn other(skb: Skb, scratch: &mut Scratch) -> i32 {
    let said = if skb.is_ipv6() { six::quote(skb, scratch) } else { packet::quote(skb, scratch) };
    let Some((answer, quote)) = said else { return the_kernels() };
    scratch.tuple = answer;
    scratch.quote = quote;
    if u16::from(quote.protocol) == udp::PROTOCOL {
        let action = datagram::error(skb, scratch);
        return if action == datagram::NOT_OURS { the_kernels() } else { action };
    }
    let Some(target) = lookup::target(&scratch.tuple) else { return the_kernels() };
    decide::error(scratch, target, &quote);
    count::number(u32::from(scratch.step.verdict));
    match Verdict::from_number(scratch.step.verdict).map(Verdict::action) {
        Some(Action::Emit) => carry::error(skb, scratch),
        _ => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn the_kernels() -> i32 {
    count::verdict(Verdict::NotTcp);
    TC_ACT_OK
}
