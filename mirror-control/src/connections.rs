//! New connections that a side's server didn't take: it refused them, or never answered. No answer says so, and no latency:
//! a server that lets nobody in looks the better for it.

use std::collections::BTreeSet;

/// Connections whose refused leg is remembered, at most; beyond that all are forgotten, and count once more.
const MOST: usize = 65_536;

/// Those of one side.
#[derive(Clone, Debug, Default)]
pub struct NotTaken {
    count: u64,
    /// By flow (slot, generation): its leg to this side wasn't taken the last time.
    refused: BTreeSet<(u32, u32)>,
}

impl NotTaken {
    /// A client's connection came to nothing, for this side has the authority.
    pub fn lost(&mut self) {
        self.count += 1;
    }

    /// A flow's leg was refused, or its SYN not answered; its client hears the other side. Dialled again and again it counts
    /// once.
    pub fn refused(&mut self, flow: (u32, u32)) {
        if self.refused.len() >= MOST {
            self.refused.clear();
        }
        self.count += u64::from(self.refused.insert(flow));
    }

    /// A flow's leg is open.
    pub fn opened(&mut self, flow: (u32, u32)) {
        self.refused.remove(&flow);
    }

    /// How many there were so far.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leg_that_is_dialled_again_and_again_counts_once_until_it_opens() {
        let mut seen = NotTaken::default();
        seen.lost();
        for _ in 0..5 {
            seen.refused((7, 1));
        }
        assert_eq!(seen.count(), 2);
        seen.refused((7, 2));
        assert_eq!(seen.count(), 3, "another connection in the same slot");
        seen.opened((7, 1));
        seen.refused((7, 1));
        assert_eq!(seen.count(), 4);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut seen = NotTaken::default();
        let most = MOST as u32;
        (0..2 * most).for_each(|slot| seen.refused((slot, 0)));
        assert_eq!((seen.count(), seen.refused.len()), (2 * u64::from(most), MOST));
    }
}
