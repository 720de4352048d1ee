//! The switch word of an application: 64 bits that say who answers, who is mirrored, and whether writes are frozen.
//!
//! Every change is one compare-and-swap of the whole word; every legal swap raises the epoch by one, so that a swap
//! prepared from an older word fails. The daemon swaps; so does the datapath in two cases: when a freeze's deadline has
//! passed, and when a side turned out to be out of sync.

/// One of the two sides of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The application's present servers.
    Primary = 0,
    /// The copy that it moves to.
    Shadow = 1,
}

impl Side {
    /// Both, in the order of their numbers.
    pub const BOTH: [Side; 2] = [Side::Primary, Side::Shadow];

    /// The side that a bit names.
    #[inline(always)]
    pub const fn from_bit(bit: u32) -> Side {
        if bit & 1 == 0 { Side::Primary } else { Side::Shadow }
    }

    /// The other side.
    #[inline(always)]
    pub const fn other(self) -> Side {
        Side::from_bit(self as u32 ^ 1)
    }

    /// `primary` or `shadow`.
    pub const fn name(self) -> &'static str {
        match self {
            Side::Primary => "primary",
            Side::Shadow => "shadow",
        }
    }
}

/// Where a migration stands. The daemon's; the datapath only carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// One side only.
    Idle = 0,
    /// Writes are frozen until the other side has caught up.
    Joining = 1,
    /// Every write goes to both; every read is the authority's.
    Mirroring = 2,
    /// A share of the reads is answered by the shadow.
    Shifting = 3,
    /// Writes are frozen; begun writes finish; then the authority flips.
    Freezing = 4,
    /// The shadow has the authority; the primary is kept in step.
    Standby = 5,
    /// The primary has the authority again.
    RolledBack = 6,
}

impl Phase {
    /// Every phase, in the order of their numbers.
    pub const ALL: [Phase; 7] = [
        Phase::Idle,
        Phase::Joining,
        Phase::Mirroring,
        Phase::Shifting,
        Phase::Freezing,
        Phase::Standby,
        Phase::RolledBack,
    ];

    /// What an operator reads.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Idle => "Idle",
            Phase::Joining => "Joining",
            Phase::Mirroring => "Mirroring",
            Phase::Shifting => "Shifting",
            Phase::Freezing => "Freezing",
            Phase::Standby => "Standby",
            Phase::RolledBack => "RolledBack",
        }
    }
}

const PHASE: u64 = 0xf;
const FROZEN: u64 = 1 << 4;
const AUTHORITY_SHIFT: u32 = 5;
const MEMBER_SHIFT: u32 = 6;
const WEIGHT_SHIFT: u32 = 8;
const WEIGHT: u64 = 0x3fff << WEIGHT_SHIFT;
const STICKY: u64 = 1 << 22;
const EPOCH_SHIFT: u32 = 32;

/// The word. Bits 0–3 phase, 4 frozen, 5 authority, 6–7 members (a bit a side), 8–21 read weight in basis points,
/// 22 sticky by client, 24–31 kept for the compare share, 32–63 epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct SwitchWord(pub u64);

impl SwitchWord {
    /// The word of an application that has just begun: all is the primary's.
    pub const fn initial() -> SwitchWord {
        SwitchWord(1 << MEMBER_SHIFT)
    }

    /// Where the migration stands; an unknown number reads as [`Phase::Idle`].
    pub const fn phase(self) -> Phase {
        let n = (self.0 & PHASE) as usize;
        if n < Phase::ALL.len() { Phase::ALL[n] } else { Phase::Idle }
    }

    /// Whether a write that begins now must wait.
    #[inline(always)]
    pub const fn frozen(self) -> bool {
        self.0 & FROZEN != 0
    }

    /// The side that answers writes.
    #[inline(always)]
    pub const fn authority(self) -> Side {
        Side::from_bit((self.0 >> AUTHORITY_SHIFT) as u32)
    }

    /// Whether a side is in sync and gets every write.
    #[inline(always)]
    pub const fn member(self, side: Side) -> bool {
        self.0 & (1 << (MEMBER_SHIFT + side as u32)) != 0
    }

    /// The share of the reads that the shadow answers, in basis points.
    #[inline(always)]
    pub const fn weight(self) -> u32 {
        ((self.0 & WEIGHT) >> WEIGHT_SHIFT) as u32
    }

    /// Whether the weight chooses by client instead of by request.
    #[inline(always)]
    pub const fn sticky(self) -> bool {
        self.0 & STICKY != 0
    }

    /// The number of swaps so far.
    #[inline(always)]
    pub const fn epoch(self) -> u32 {
        (self.0 >> EPOCH_SHIFT) as u32
    }

    /// The low half: all but the epoch.
    #[inline(always)]
    pub const fn state(self) -> u32 {
        self.0 as u32
    }

    /// The word that follows this one with another low half.
    #[inline(always)]
    pub const fn next(self, state: u32) -> SwitchWord {
        SwitchWord(((self.epoch().wrapping_add(1) as u64) << EPOCH_SHIFT) | state as u64)
    }

    const fn with(self, mask: u64, bits: u64) -> SwitchWord {
        SwitchWord((self.0 & !mask) | (bits & mask))
    }

    /// With another phase; the epoch stays until [`SwitchWord::next`].
    pub const fn with_phase(self, phase: Phase) -> SwitchWord {
        self.with(PHASE, phase as u64)
    }

    /// Frozen or not.
    pub const fn with_frozen(self, frozen: bool) -> SwitchWord {
        self.with(FROZEN, if frozen { FROZEN } else { 0 })
    }

    /// With the authority given to `side`.
    pub const fn with_authority(self, side: Side) -> SwitchWord {
        self.with(1 << AUTHORITY_SHIFT, (side as u64) << AUTHORITY_SHIFT)
    }

    /// With a side taken in, or put out.
    #[inline(always)]
    pub const fn with_member(self, side: Side, member: bool) -> SwitchWord {
        let bit = 1 << (MEMBER_SHIFT + side as u32);
        self.with(bit, if member { bit } else { 0 })
    }

    /// With a read weight in basis points, cut to all of them.
    pub const fn with_weight(self, weight: u32) -> SwitchWord {
        let cut = if weight > crate::weight::ALL { crate::weight::ALL } else { weight };
        self.with(WEIGHT, (cut as u64) << WEIGHT_SHIFT)
    }

    /// Weighted by client, or by request.
    pub const fn with_sticky(self, sticky: bool) -> SwitchWord {
        self.with(STICKY, if sticky { STICKY } else { 0 })
    }

    /// What the datapath swaps in when `side`, which hasn't the authority, turned out to owe a write that it can't get
    /// any more: not a member, no reads, writes not frozen for its sake. `None` where there is nothing to change: the
    /// side isn't a member, or it is the authority (whose state is the truth by definition).
    #[inline(always)]
    pub const fn out_of_sync(self, side: Side) -> Option<SwitchWord> {
        if !self.member(side) || side as u8 == self.authority() as u8 {
            return None;
        }
        // Its share of the reads is the authority's from now on: all of them, or none, by which side that is.
        let reads = match self.authority() {
            Side::Primary => 0,
            Side::Shadow => crate::weight::ALL,
        };
        let phase = match self.authority() {
            Side::Primary => Phase::Idle,
            Side::Shadow => Phase::Standby,
        };
        let word = self.with_member(side, false).with_frozen(false).with_weight(reads).with_phase(phase);
        Some(self.next(word.state()))
    }
}

/// A freeze as the datapath knows it: until when it lasts, which word it is of, and what ends it. Armed before the word is
/// frozen; only then does its deadline count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Freeze {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub deadline_ns: u64,
    /// Epoch of the frozen word.
    pub epoch: u32,
    /// Low half of the word that ends it.
    pub thaw: u32,
}

impl Freeze {
    /// The freeze that begins by a swap of `word`, and leaves `thawed` behind.
    pub const fn of(word: SwitchWord, deadline_ns: u64, thawed: SwitchWord) -> Freeze {
        Freeze { deadline_ns, epoch: word.epoch().wrapping_add(1), thaw: thawed.state() }
    }

    /// The word that ends the freeze of `word`; `None` where it isn't frozen, or by another freeze than this one.
    #[inline(always)]
    pub const fn ended(self, word: SwitchWord) -> Option<SwitchWord> {
        if word.frozen() && self.epoch == word.epoch() { Some(word.next(self.thaw)) } else { None }
    }

    /// What the first packet past the deadline swaps in for `word`: [`Freeze::ended`], once it is time.
    #[inline(always)]
    pub const fn passed(self, word: SwitchWord, now_ns: u64) -> Option<SwitchWord> {
        if now_ns < self.deadline_ns { None } else { self.ended(word) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C1: the kernel's own swap.
    #[test]
    fn a_deadline_counts_for_the_freeze_that_it_was_armed_for_alone() {
        let word = SwitchWord::initial().with_weight(2_500);
        let freeze = Freeze::of(word, 1_000, word);
        let frozen = word.next(word.with_frozen(true).state());
        assert_eq!(freeze.passed(frozen, 999), None);
        let thawed = freeze.passed(frozen, 1_000).unwrap();
        assert_eq!((thawed.state(), thawed.epoch()), (word.state(), 2));
        assert_eq!(freeze.passed(thawed, 2_000), None, "it isn't frozen");
        let again = thawed.next(thawed.with_frozen(true).state());
        assert_eq!(freeze.passed(again, 2_000), None, "it is the next one");
    }

    #[test]
    fn every_field_comes_back_and_touches_no_other() {
        let word = SwitchWord::initial()
            .with_phase(Phase::Shifting)
            .with_authority(Side::Shadow)
            .with_member(Side::Shadow, true)
            .with_weight(2_500)
            .with_sticky(true)
            .with_frozen(true);
        let word = word.next(word.state());
        assert_eq!(word.phase(), Phase::Shifting);
        assert_eq!(word.authority(), Side::Shadow);
        assert!(word.member(Side::Primary) && word.member(Side::Shadow));
        assert_eq!(word.weight(), 2_500);
        assert!(word.sticky() && word.frozen());
        assert_eq!(word.epoch(), 1);
        assert_eq!(word.with_frozen(false).weight(), 2_500);
    }

    #[test]
    fn a_weight_is_cut_to_all_reads_and_chooses_by_client_only_where_it_is_said() {
        let word = SwitchWord::initial();
        assert_eq!(
            [9_999, 10_000, 20_000].map(|weight| word.with_weight(weight).weight()),
            [9_999, 10_000, 10_000]
        );
        assert!(!word.sticky() && word.with_sticky(true).sticky());
        assert!(!word.with_sticky(true).with_sticky(false).sticky());
    }

    #[test]
    fn only_a_member_without_authority_can_fall_out_of_sync() {
        let word = SwitchWord::initial().with_member(Side::Shadow, true).with_weight(5_000).with_frozen(true);
        assert_eq!(word.out_of_sync(Side::Primary), None);
        let out = word.out_of_sync(Side::Shadow).unwrap();
        assert!(!out.member(Side::Shadow) && !out.frozen());
        assert_eq!((out.weight(), out.epoch()), (0, 1));
        assert_eq!(out.out_of_sync(Side::Shadow), None);
    }
}
