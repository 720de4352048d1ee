//! What has come out of order, and how it is reported (RFC 2018, RFC 2883).

use std::rc::Rc;

use mirror_common::{
    flow::{sack::MAX_BLOCKS, tcp},
    seq,
};

use super::{Packet, State, Tcp};

/// What the next acknowledgement says of bytes beyond it.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The last segment that had come before.
    pub(super) duplicate: Option<[u32; 2]>,
    /// A number of each block, the latest first.
    recent: Vec<u32>,
}

impl Tcp {
    /// The bytes that have come.
    pub fn read(&mut self, to: &mut Vec<Packet>) -> Vec<u8> {
        let shut = self.told_edge.wrapping_sub(self.rcv) < 2 * u32::from(self.mss);
        let bytes = std::mem::take(&mut self.ready);
        if shut && !bytes.is_empty() && self.state == State::Open {
            self.acknowledge(to);
        }
        bytes
    }

    /// The blocks of the next acknowledgement.
    pub(super) fn blocks(&self) -> Vec<[u32; 2]> {
        if !self.sack {
            return Vec::new();
        }
        let mut blocks: Vec<_> = self.report.duplicate.into_iter().collect();
        let first = blocks.len();
        for at in &self.report.recent {
            if let Some(block) = self.around(*at)
                && !blocks[first..].contains(&block)
                && blocks.len() < MAX_BLOCKS
            {
                blocks.push(block);
            }
        }
        blocks
    }

    /// The whole range around a number that has come early.
    fn around(&self, at: u32) -> Option<[u32; 2]> {
        let ranges =
            || self.early.iter().map(|(begin, bytes)| [*begin, begin.wrapping_add(bytes.len() as u32)]);
        let [mut begin, mut end] = ranges().find(|[begin, end]| seq::le(*begin, at) && seq::lt(at, *end))?;
        loop {
            let touches = |[a, b]: &[u32; 2]| seq::le(*a, end) && seq::le(begin, *b);
            let (first, last) = ranges()
                .filter(touches)
                .fold((begin, end), |(first, last), [a, b]| (seq::min(first, a), seq::max(last, b)));
            if (first, last) == (begin, end) {
                break;
            }
            (begin, end) = (first, last);
        }
        // A FIN has a number, too.
        Some([begin, if self.early_fin == Some(end) { end.wrapping_add(1) } else { end }])
    }

    /// Takes a segment's bytes.
    pub(super) fn take_data(&mut self, packet: &Packet) {
        let old = if seq::lt(packet.seq, self.rcv) { self.rcv.wrapping_sub(packet.seq) as usize } else { 0 };
        let room = self.told_edge.wrapping_sub(packet.seq) as usize;
        let cut = packet.payload.len().min(room);
        if packet.is(tcp::FIN) && cut == packet.payload.len() {
            self.early_fin = Some(packet.seq.wrapping_add(packet.len()));
        }
        if old < cut {
            let at = packet.seq.wrapping_add(old as u32);
            let end = packet.seq.wrapping_add(cut as u32);
            if self.around(at).is_some_and(|[_, known]| seq::le(end, known)) {
                self.report.duplicate = Some([at, end]);
            }
            let bytes: Rc<[u8]> = packet.payload[old..cut].into();
            let longer = self.early.get(&at).is_none_or(|known| known.len() < bytes.len());
            if longer {
                self.early.insert(at, bytes);
            }
            self.report.recent.insert(0, at);
            self.report.recent.truncate(4 * MAX_BLOCKS);
        }
        // In no order that the wrap could break: there are few.
        loop {
            let rcv = self.rcv;
            let due = self.early.iter().find(|(at, _)| seq::le(**at, rcv)).map(|(at, _)| *at);
            let Some(at) = due else { break };
            let Some(bytes) = self.early.remove(&at) else { break };
            let known = rcv.wrapping_sub(at) as usize;
            if known < bytes.len() {
                self.ready.extend(&bytes[known..]);
                self.rcv = at.wrapping_add(bytes.len() as u32);
            }
        }
        if self.early_fin == Some(self.rcv) && !self.peer_fin {
            self.peer_fin = true;
            self.rcv = self.rcv.wrapping_add(1);
        }
    }
}
