//! Lines of a trace.

use mirror_common::switch_word::Side;

use super::gateway::{Gateway, Read};

impl std::fmt::Display for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.packet)
    }
}

impl Gateway {
    /// A flow in one line.
    pub fn flow_line(&self, slot: u32) -> String {
        let flow = &self.flows[slot as usize];
        let leg = |side: Side| {
            let leg = flow.leg(side);
            format!(
                "{}{} acked {} edge {} rcv {} max {} parse {} answered {} fl {}",
                side.name(),
                leg.state,
                leg.acked,
                leg.edge,
                leg.rcv_nxt,
                leg.sent_max,
                leg.parse.at,
                leg.answered,
                leg.flags
            )
        };
        format!(
            "[{} auth {} fl {:#x} next {} shown {} cack {} view {} turns {} parse {} | {} | {}]",
            flow.state,
            flow.authority,
            flow.flags,
            flow.client_next,
            flow.shown,
            flow.client_acked,
            flow.view_next,
            flow.turns,
            flow.parse.at,
            leg(Side::Primary),
            leg(Side::Shadow)
        )
    }
}
