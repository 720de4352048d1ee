//! What the daemon knows beyond the words: since when each side is in sync or not, and why.

use std::collections::VecDeque;

use mirror_common::{
    abi::{Event, EventKind},
    switch_word::{Side, SwitchWord},
};

use crate::words::monotonic_ns;

/// Notices that are kept.
const NOTICES: usize = 256;

/// A side's standing.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Gets every write, and may get reads.
    pub in_sync: bool,
    /// Since when, in nanoseconds of the monotonic clock.
    pub since_ns: u64,
    /// Why.
    pub reason: String,
}

/// The state of the application.
pub struct State {
    /// By side.
    pub sides: [Standing; 2],
    /// Legs lost, by side.
    pub legs_lost: [u64; 2],
    /// What a person may want to read, the newest last.
    pub notices: VecDeque<String>,
    /// Flows and legs as the last sweep found them.
    pub swept: crate::datapath::Swept,
    pending: Option<String>,
}

impl State {
    /// From the word as it is found, and when (nanoseconds) and why a side fell out of sync the last time.
    pub fn new(word: SwitchWord, (at, reason): (u64, u64)) -> Self {
        let now = monotonic_ns();
        let standing = |side: Side| match (word.member(side), at) {
            (true, _) => Standing { in_sync: true, since_ns: now, reason: "found in sync".into() },
            (false, 0) => Standing { in_sync: false, since_ns: now, reason: "has not joined".into() },
            (false, at) => Standing { in_sync: false, since_ns: at, reason: why(reason).into() },
        };
        Self {
            sides: [standing(Side::Primary), standing(Side::Shadow)],
            legs_lost: [0; 2],
            notices: VecDeque::new(),
            swept: crate::datapath::Swept::default(),
            pending: None,
        }
    }

    /// Keeps a line for people.
    pub fn say(&mut self, line: String) {
        tracing::info!("{line}");
        if self.notices.len() == NOTICES {
            self.notices.pop_front();
        }
        self.notices.push_back(line);
    }

    /// Takes an event of the datapath in.
    pub fn note(&mut self, event: &Event) {
        let side = Side::from_bit(event.side);
        if event.kind == EventKind::LegLost as u32 {
            self.legs_lost[side as usize] += 1;
        } else if event.kind == EventKind::OutOfSync as u32 {
            self.pending = Some(why(event.reason.into()).into());
        } else if event.kind == EventKind::TableFull as u32 {
            self.say("no free slot or port for a new connection".into());
        }
    }

    /// Compares with the word: who fell out of sync is said at once.
    pub fn follow(&mut self, word: SwitchWord) {
        for side in Side::BOTH {
            let member = word.member(side);
            if self.sides[side as usize].in_sync == member {
                continue;
            }
            let reason =
                if member { "joined".to_owned() } else { self.pending.take().unwrap_or("put out".into()) };
            self.say(format!("{} {}: {reason}", side.name(), if member { "in sync" } else { "OUT OF SYNC" }));
            self.sides[side as usize] = Standing { in_sync: member, since_ns: monotonic_ns(), reason };
        }
    }
}

/// Why a side fell out of sync: a [`mirror_common::flow::LossReason`], or 0.
fn why(reason: u64) -> &'static str {
    match reason {
        1 => "a leg that owed a write was closed by its server",
        2 => "a leg that owed a write was reset by its server",
        3 => "a server that owed a write refused to be dialled",
        4 => "a leg that owed a write fell silent for longer than the stall budget",
        _ => "a client's connection ended while a write was owed",
    }
}
