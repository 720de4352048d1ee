//! The daemon's holder: held packets by flow, in order, bounded; each is decided anew like a retransmission.

use std::collections::{BTreeMap, VecDeque};

use mirror_common::abi::Tuple;

use super::packet::Packet;

/// Packets of one flow.
const FRAMES: usize = 64;
/// How long, in microseconds: twice the freeze's deadline.
const TIME: u64 = 1_500_000;
/// Held packets are tried again after this, event or not, in microseconds.
pub const AGAIN: u64 = 20_000;

#[derive(Default)]
struct Queue {
    packets: VecDeque<(Packet, u64)>,
    released: Vec<(Packet, u64)>,
    tried: Option<u64>,
    woken: bool,
}

/// The holder.
#[derive(Default)]
pub struct Holder {
    flows: BTreeMap<(u32, u16), Queue>,
    thawed: bool,
}

impl Holder {
    /// Whether it has something.
    pub fn holds(&self) -> bool {
        self.flows.values().any(|queue| !queue.packets.is_empty())
    }

    /// Takes a packet in, unless it has it already, or too many.
    pub fn keep(&mut self, packet: Packet, now: u64) {
        let queue = self.flows.entry((packet.tuple.saddr, packet.tuple.sport)).or_default();
        if queue.packets.iter().any(|(known, _)| *known == packet) || queue.packets.len() >= FRAMES {
            return;
        }
        let since =
            queue.released.iter().find(|(known, _)| *known == packet).map_or(now, |(_, since)| *since);
        queue.packets.push_back((packet, since));
    }

    /// A flow's packets may go on.
    pub fn wake(&mut self, flow: &Tuple) {
        if let Some(queue) = self.flows.get_mut(&(flow.saddr, flow.sport)) {
            queue.woken = true;
        }
    }

    /// A freeze has ended, or no connection lags any more.
    pub fn thaw(&mut self) {
        self.thawed = true;
    }

    /// The packets that go now.
    pub fn let_go(&mut self, now: u64) -> Vec<Packet> {
        let all = std::mem::take(&mut self.thawed);
        let mut gone = Vec::new();
        for queue in self.flows.values_mut() {
            let due = queue.tried.is_none_or(|tried| now - tried >= AGAIN);
            let woken = std::mem::take(&mut queue.woken);
            if !(all || due || woken) || queue.packets.is_empty() {
                continue;
            }
            queue.tried = Some(now);
            queue.released.clear();
            for (packet, since) in queue.packets.drain(..) {
                if now - since <= TIME {
                    gone.push(packet.clone());
                    queue.released.push((packet, since));
                }
            }
        }
        self.flows.retain(|_, queue| {
            !queue.packets.is_empty() || queue.tried.is_some_and(|tried| now - tried < 2 * AGAIN)
        });
        gone
    }
}
