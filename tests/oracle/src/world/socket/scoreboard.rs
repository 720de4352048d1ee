//! What a sender knows that its peer has beyond its acknowledgement (RFC 2018, RFC 6675).

use mirror_common::seq;

use super::{Packet, Tcp};

/// Segments that are sent again at most for one that came.
const AT_ONCE: usize = 2;
/// RFC 6675, 2: so many segments beyond a hole say that it is lost.
const LOST_BEHIND: u32 = 3;

/// The ranges that were reported.
#[derive(Debug, Default)]
pub(super) struct Scoreboard {
    ranges: Vec<[u32; 2]>,
    /// The holes before it have been sent again.
    resent: Option<u32>,
}

impl Scoreboard {
    /// Takes the blocks of an acknowledgement. Whether they tell anything new.
    pub(super) fn note(&mut self, ack: u32, top: u32, blocks: &[[u32; 2]]) -> bool {
        let mut news = false;
        for [begin, end] in blocks.iter().copied() {
            let valid = seq::lt(ack, begin) && seq::lt(begin, end) && seq::le(end, top);
            if valid && seq::lt(self.behind(begin), end) {
                self.ranges.push([begin, end]);
                news = true;
            }
        }
        news
    }

    /// The peer has all before this.
    pub(super) fn pass(&mut self, ack: u32) {
        self.ranges.retain(|[_, end]| seq::lt(ack, *end));
        self.resent = self.resent.filter(|at| seq::lt(ack, *at) && !self.ranges.is_empty());
    }

    /// The first number from `at` on that the peer hasn't reported.
    pub(super) fn behind(&self, mut at: u32) -> u32 {
        while let Some([_, end]) = self.ranges.iter().find(|[a, b]| seq::le(*a, at) && seq::lt(at, *b)) {
            at = *end;
        }
        at
    }

    /// Bytes from `at` on to the next reported range.
    pub(super) fn hole(&self, at: u32) -> usize {
        let above = self.ranges.iter().filter(|[begin, _]| seq::lt(at, *begin));
        above.map(|[begin, _]| begin.wrapping_sub(at) as usize).min().unwrap_or(usize::MAX)
    }

    /// Behind the last range.
    fn top(&self) -> Option<u32> {
        self.ranges.iter().map(|[_, end]| *end).reduce(seq::max)
    }
}

impl Tcp {
    /// Sends again what lies before the reported ranges, each hole once; a timeout repairs what is lost then.
    pub(super) fn fill_holes(&mut self, to: &mut Vec<Packet>) {
        let Some(top) = self.scoreboard.top() else { return };
        if self.scoreboard.resent.is_none() {
            if top.wrapping_sub(self.una) <= LOST_BEHIND * u32::from(self.mss) {
                return;
            }
            self.window = (self.window / 2).max(2 * u32::from(self.mss));
        }
        let mut at = self.scoreboard.resent.unwrap_or(self.una);
        for _ in 0..AT_ONCE {
            at = self.scoreboard.behind(seq::max(at, self.una));
            if !seq::lt(at, top) {
                break;
            }
            let offset = at.wrapping_sub(self.una) as usize;
            let Some(left) = self.queue.len().checked_sub(offset) else { break };
            let n = self.scoreboard.hole(at).min(usize::from(self.mss)).min(left);
            if n == 0 {
                break;
            }
            self.send(offset, n, false, to);
            at = at.wrapping_add(n as u32);
        }
        self.scoreboard.resent = Some(at);
    }
}
