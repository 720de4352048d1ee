//! The moves: which word a move freezes, and which one it ends with. Every swap of the daemon's is made here.
//!
//! ```text
//!           join              weight > 0
//!   Idle ────────► Mirroring ◄──────────► Shifting
//!     ▲                │  cutover             │
//!     │ out of sync    ├──────────────────────┘
//!     │ (datapath)     ▼        rollback
//!     └────────────  Standby ─────────────► RolledBack ──► (as Mirroring)
//! ```
//! While a move waits, the phase is Joining or Freezing and writes are frozen. Whoever finds the freeze's deadline passed
//! swaps the thawed word in: the word before the move, unfrozen.

use std::fmt;

use mirror_common::switch_word::{Freeze, Phase, Side, SwitchWord};
use mirror_common::weight::ALL;
use serde::{Deserialize, Serialize};

/// How long each phase of a move took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// The freezing swap.
    pub freeze_us: f64,
    /// Until every begun write was finished.
    pub drain_us: f64,
    /// The join hook.
    pub hook_us: f64,
    /// The swap that ends the move.
    pub flip_us: f64,
    /// How long writes were frozen in all.
    pub frozen_us: f64,
    /// The slowest read and the slowest write whose answers ended within the move, or within 100 ms behind it; nothing where
    /// none did. Rounded up by 1/16 at most; what would have been slow without the move is among them.
    #[serde(default)]
    pub slowest_us: [Option<f64>; 2],
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { freeze_us, drain_us, hook_us, flip_us, frozen_us, slowest_us } = self;
        write!(
            f,
            "freeze {freeze_us:.1} µs, drain {drain_us:.1} µs, hook {hook_us:.1} µs, flip {flip_us:.1} µs; frozen for \
             {frozen_us:.1} µs"
        )?;
        for (class, us) in ["read", "write"].iter().zip(slowest_us) {
            if let Some(us) = us {
                write!(f, "; slowest {class} {:.1} ms", us / 1e3)?;
            }
        }
        Ok(())
    }
}

mod course;

pub use course::{Course, Do, Failed, Saw, Swap, Terms};

/// What an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Takes the side without authority in.
    Join,
    /// Gives the shadow the authority, and all reads.
    Cutover,
    /// Gives the primary the authority, and all reads.
    Rollback,
}

impl Move {
    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Move::Join => "join",
            Move::Cutover => "cutover",
            Move::Rollback => "rollback",
        }
    }
}

/// Why a move can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another one is under way.
    #[error("another move is under way (writes are frozen); wait for it")]
    UnderWay,
    /// The other side is a member.
    #[error("the {0} is in sync already; if its answers differ all the same: mirror join APP --again")]
    InSync(&'static str),
    /// The other side is a member, and nothing would bring it up to date.
    #[error("the policy has no `join_hook`: nothing would bring the {0} up to date")]
    NoHook(&'static str),
    /// The other side isn't a member.
    #[error("the {0} is out of sync; join it first: mirror join APP")]
    OutOfSync(&'static str),
    /// It has the authority.
    #[error("the {0} has the authority already")]
    HasIt(&'static str),
    /// More than all.
    #[error("a weight is a share of the reads from 0 to 100 %")]
    Weight,
}

/// A move as it will be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The word that it begins with.
    pub from: SwitchWord,
    /// What is swapped in first (its low half counts).
    pub frozen: SwitchWord,
    /// What a freeze that fails leaves behind.
    pub thawed: SwitchWord,
    /// What is swapped in when every begun write is finished, and the hook has run.
    pub done: SwitchWord,
}

/// Plans a move from the word as it stands.
///
/// # Errors
/// Why it can't be made.
pub fn plan(word: SwitchWord, wanted: Move) -> Result<Plan, Refusal> {
    if word.frozen() {
        return Err(Refusal::UnderWay);
    }
    let me = word.authority();
    let other = me.other();
    let done = match wanted {
        Move::Join => {
            if word.member(other) {
                return Err(Refusal::InSync(other.name()));
            }
            let phase = if me == Side::Primary { Phase::Mirroring } else { Phase::Standby };
            word.with_member(other, true).with_weight(reads_of(me)).with_phase(phase)
        }
        Move::Cutover | Move::Rollback => {
            let to = if wanted == Move::Cutover { Side::Shadow } else { Side::Primary };
            if me == to {
                return Err(Refusal::HasIt(to.name()));
            }
            if !word.member(to) {
                return Err(Refusal::OutOfSync(to.name()));
            }
            let phase = if to == Side::Shadow { Phase::Standby } else { Phase::RolledBack };
            word.with_authority(to).with_weight(reads_of(to)).with_phase(phase)
        }
    };
    let phase = if wanted == Move::Join { Phase::Joining } else { Phase::Freezing };
    Ok(Plan { from: word, frozen: word.with_phase(phase).with_frozen(true), thawed: word, done })
}

/// Plans how the side without authority is put out, at rest: no client waits for a write that it might still do behind a copy.
/// Its share of the reads is the authority's from the freeze on, and stays so where that fails.
///
/// # Errors
/// Why it can't be put out.
pub fn put_out(word: SwitchWord) -> Result<Plan, Refusal> {
    let me = word.authority();
    let thawed = weigh(word, reads_of(me))?;
    let done = word.out_of_sync(me.other()).ok_or(Refusal::OutOfSync(me.other().name()))?;
    Ok(Plan { from: word, frozen: thawed.with_phase(Phase::Freezing).with_frozen(true), thawed, done })
}

impl Plan {
    /// The same with nobody's authority changed: it freezes, drains, and thaws.
    pub const fn rehearsal(self) -> Plan {
        Plan { done: self.thawed, ..self }
    }
}

/// What ends a freeze that a daemon left behind which is no more: its move never happened. `None` where nothing is frozen.
pub const fn left_frozen(word: SwitchWord, armed: Freeze) -> Option<SwitchWord> {
    match (word.frozen(), armed.ended(word)) {
        (false, _) => None,
        (true, Some(thawed)) => Some(thawed),
        // Frozen by nobody that armed a deadline: all but that stays.
        (true, None) => Some(word.next(word.with_frozen(false).state())),
    }
}

/// The word with another read weight, in basis points.
///
/// # Errors
/// Why it can't be had.
pub fn weigh(word: SwitchWord, weight: u32) -> Result<SwitchWord, Refusal> {
    if word.frozen() {
        return Err(Refusal::UnderWay);
    }
    if weight > ALL {
        return Err(Refusal::Weight);
    }
    let asked = |side: Side, share: u32| share == 0 || word.member(side);
    if !asked(Side::Shadow, weight) {
        return Err(Refusal::OutOfSync(Side::Shadow.name()));
    }
    if !asked(Side::Primary, ALL - weight) {
        return Err(Refusal::OutOfSync(Side::Primary.name()));
    }
    let phase = match (word.authority(), weight) {
        (Side::Shadow, _) => Phase::Standby,
        (Side::Primary, 0) => Phase::Mirroring,
        (Side::Primary, _) => Phase::Shifting,
    };
    Ok(word.with_weight(weight).with_phase(if word.member(word.authority().other()) {
        phase
    } else {
        word.phase()
    }))
}

/// The weight at which all reads are a side's.
pub const fn reads_of(side: Side) -> u32 {
    match side {
        Side::Primary => 0,
        Side::Shadow => ALL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined() -> SwitchWord {
        plan(SwitchWord::initial(), Move::Join).unwrap().done
    }

    #[test]
    fn there_and_back() {
        assert_eq!(joined().phase(), Phase::Mirroring);
        let over = plan(weigh(joined(), 5_000).unwrap(), Move::Cutover).unwrap();
        assert!(over.frozen.frozen() && over.frozen.authority() == Side::Primary);
        assert_eq!((over.done.authority(), over.done.weight()), (Side::Shadow, ALL));
        let back = plan(over.done, Move::Rollback).unwrap().done;
        assert_eq!((back.authority(), back.weight(), back.phase()), (Side::Primary, 0, Phase::RolledBack));
    }

    /// C5: nor by hand.
    #[test]
    fn what_is_out_of_sync_gets_neither_reads_nor_authority() {
        let alone = SwitchWord::initial();
        assert_eq!(weigh(alone, 1), Err(Refusal::OutOfSync("shadow")));
        assert_eq!(plan(alone, Move::Cutover), Err(Refusal::OutOfSync("shadow")));
        let over = plan(joined(), Move::Cutover).unwrap().done;
        let lost = over.out_of_sync(Side::Primary).unwrap();
        assert_eq!(plan(lost, Move::Rollback), Err(Refusal::OutOfSync("primary")));
        assert_eq!(weigh(lost, 5_000), Err(Refusal::OutOfSync("primary")));
        assert!(plan(lost, Move::Join).is_ok());
    }

    #[test]
    fn the_mirror_alone_is_put_out_and_its_share_goes_back_before_it() {
        let shifting = weigh(joined(), 5_000).unwrap();
        for word in [shifting, plan(shifting, Move::Cutover).unwrap().done] {
            let (me, other) = (word.authority(), word.authority().other());
            let planned = put_out(word).unwrap();
            assert!(planned.frozen.frozen() && planned.frozen.member(other) && planned.thawed.member(other));
            for share in [planned.frozen, planned.thawed, planned.done].map(SwitchWord::weight) {
                assert_eq!(share, reads_of(me));
            }
            assert_eq!((planned.done.member(other), planned.done.frozen()), (false, false));
            assert_eq!((planned.done.authority(), planned.done.member(me)), (me, true));
            assert_eq!(put_out(planned.done), Err(Refusal::OutOfSync(other.name())));
            assert!(plan(planned.done, Move::Join).is_ok());
            assert_eq!(put_out(planned.frozen), Err(Refusal::UnderWay));
        }
    }

    proptest! {
        /// Whatever is asked in whatever order: the authority is always a member, a share is only ever a member's, and
        /// only a frozen word is followed by another authority.
        #[test]
        fn no_order_of_moves_splits_writes(moves in proptest::collection::vec(0..7_u32, 1..40)) {
            let mut word = SwitchWord::initial();
            for m in moves {
                let next = match m {
                    0 => plan(word, Move::Join).map(|p| p.done),
                    1 => plan(word, Move::Cutover).map(|p| p.done),
                    2 => plan(word, Move::Rollback).map(|p| p.done),
                    3 => weigh(word, 2_500),
                    4 => weigh(word, 0),
                    5 => put_out(word).map(|p| p.done),
                    _ => Ok(word.out_of_sync(word.authority().other()).unwrap_or(word)),
                };
                word = next.unwrap_or(word);
                prop_assert!(word.member(word.authority()) && !word.frozen());
                prop_assert!(word.weight() == 0 || word.member(Side::Shadow));
                prop_assert!(word.weight() == ALL || word.member(Side::Primary));
            }
        }
    }
}
