//! The simulated datapath: an application's words and a few connections, whose packets are split at each atomic operation;
//! and the rules, which are looked at in every step.
//!
//! Beside the words it keeps what no datapath knows: which writes each side really lacks. A rule is about that, not about what
//! the words say of it.

use mirror_common::switch_word::{Freeze, Side, SwitchWord};
use mirror_common::weight::ALL;

use super::Mutant;

/// Connections.
pub const FLOWS: usize = 3;

/// What an operation doesn't know by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The packet begins a write.
    Write,
    /// The packet begins a read; the shadow's, if this is below the weight.
    Read(u32),
    /// This leg answers.
    Answer(Side),
    /// This leg is lost. Of the authority's: whether the write is left undone.
    Lose(Side, bool),
}

/// A write, or a read, that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Turn {
    authority: Side,
    /// Who hasn't answered it yet, by side.
    owed: [bool; 2],
    /// It is counted among the open ones.
    counted: bool,
}

/// Where the packet of a connection is: between any two of these the others', and the daemon's, operations come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Nothing is under way.
    Idle,
    /// A write is counted.
    Counted,
    /// The deadline of this word's freeze has passed: the second word is to be swapped in.
    Due(SwitchWord, SwitchWord),
    /// The word is read.
    Read(SwitchWord),
    /// The turn has begun.
    Open(Turn),
    /// A leg that owes it is lost; its side is to be put out.
    Losing(Turn, Side),
    /// The authority's leg is lost; that is to be counted.
    Doubting(Turn),
    /// Finished; it is to be counted out.
    Finished,
    /// It waits for the thaw.
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    at: At,
    /// A read: by this it finds its side.
    reads: Option<u32>,
    /// When its packet came: all of a packet's work is done at the time at which it came.
    arrived: u64,
}

/// The datapath, its clock, and what is true.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The switch word.
    pub word: SwitchWord,
    /// Set by the daemon.
    pub armed: Freeze,
    /// Writes in doubt.
    pub in_doubt: u64,
    /// Its clock.
    pub now: u64,
    /// The first rule that was broken.
    pub broken: Option<String>,
    /// What happened so far.
    pub seen: Seen,
    mutant: Option<Mutant>,
    /// Writes counted, and counted out. One number in the datapath; each processor's sums in the mutant.
    pub begun: i64,
    /// See above.
    pub finished: i64,
    flows: [Flow; FLOWS],
    /// When the freeze that stands there must be over.
    bound: u64,
    /// Sides that lack a write that the authority has.
    lacks: [bool; 2],
    /// The authority may lack a write that the mirror has, and that no client saw answered.
    may_lack: bool,
    /// No write has begun since the hook copied.
    copied: bool,
}

/// What happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// A packet ended a freeze whose deadline had passed.
    pub ended: u64,
    /// A write waited.
    pub held: u64,
    /// A side was put out.
    pub put_out: u64,
    /// The authority went to the other side.
    pub flips: u64,
    /// The authority went away from a side that may lack a write.
    pub doubtful: u64,
}

impl Kernel {
    /// An application that has just begun.
    pub fn new(mutant: Option<Mutant>) -> Self {
        Self {
            word: SwitchWord::initial(),
            armed: Freeze::default(),
            in_doubt: 0,
            now: 1,
            broken: None,
            seen: Seen::default(),
            mutant,
            begun: 0,
            finished: 0,
            flows: [Flow { at: At::Idle, reads: None, arrived: 0 }; FLOWS],
            bound: u64::MAX,
            lacks: [false, true],
            may_lack: false,
            copied: false,
        }
    }

    fn break_rule(&mut self, rule: &str) {
        if self.broken.is_none() {
            self.broken = Some(format!("{rule}\n{self:#?}"));
        }
    }

    /// Writes begun and not finished.
    pub fn open_writes(&self) -> i64 {
        self.begun - self.finished
    }

    /// The daemon freezes writes; however that goes on, they wait no longer than until `bound`.
    pub fn freeze(&mut self, old: SwitchWord, state: SwitchWord, bound: u64) -> Option<SwitchWord> {
        let frozen = self.swap(old, old.next(state.state()));
        if frozen.is_some() {
            self.bound = bound;
            self.copied = false;
        }
        frozen
    }

    /// A compare-and-swap, whoever makes it.
    pub fn swap(&mut self, old: SwitchWord, new: SwitchWord) -> Option<SwitchWord> {
        if self.word != old {
            return None;
        }
        if new.epoch() != old.epoch().wrapping_add(1) {
            self.break_rule("a swap that isn't the next epoch");
        }
        if new.authority() != old.authority() {
            self.flipped(old, new);
        }
        for side in Side::BOTH {
            if new.member(side) && !old.member(side) {
                if !self.copied || self.owed() {
                    self.break_rule("a side joined that isn't level");
                }
                self.lacks[side as usize] = false;
            }
        }
        if !new.member(old.authority().other()) && old.authority() == new.authority() {
            // What the authority has is the truth from here on.
            self.may_lack = false;
        }
        self.word = new;
        Some(new)
    }

    fn flipped(&mut self, old: SwitchWord, new: SwitchWord) {
        self.seen.flips += 1;
        if self.owed() {
            self.break_rule("a flip with a write owed");
        }
        if self.lacks[new.authority() as usize] {
            self.break_rule("authority for a side that lacks a write");
        }
        if std::mem::take(&mut self.may_lack) {
            self.seen.doubtful += 1;
            self.lacks[old.authority() as usize] = true;
        }
    }

    /// Whether a write is owed by anybody.
    fn owed(&self) -> bool {
        self.flows.iter().any(|flow| match flow.at {
            At::Open(_) | At::Losing(..) | At::Doubting(_) => flow.reads.is_none(),
            At::Idle | At::Counted | At::Due(..) | At::Read(_) | At::Finished | At::Held => false,
        })
    }

    /// The hook has copied the authority's state.
    pub fn copy(&mut self) {
        let mirror = self.word.authority().other() as usize;
        let owed = |flow: &Flow| match flow.at {
            At::Open(turn) | At::Losing(turn, _) | At::Doubting(turn) => turn.counted && turn.owed[mirror],
            _ => false,
        };
        if self.flows.iter().any(owed) {
            self.break_rule("a write that the mirror was asked may come behind the copy");
        }
        self.copied = true;
    }

    /// Puts the side without authority out, as whoever finds out does.
    pub fn put_out(&mut self, side: Side) {
        if let Some(next) = self.word.out_of_sync(side) {
            self.seen.put_out += 1;
            self.swap(self.word, next);
        }
    }

    /// Ends what waits for the authority.
    pub fn give_up(&mut self) {
        for index in 0..FLOWS {
            let me = self.word.authority();
            if let At::Open(turn) = self.flows[index].at
                && turn.owed[me as usize]
            {
                self.flows[index].at = self.lose_authority(turn, true);
                // One run of the sweep, under the flow's lock.
                self.step(index, None);
            }
        }
    }

    /// All that may be chosen for a connection's next operation. No reads: no rule needs every order of them.
    pub fn choices(&self, index: usize) -> Vec<Option<Choice>> {
        match self.flows[index].at {
            At::Idle | At::Held => vec![Some(Choice::Write)],
            At::Open(turn) => self
                .owing(index)
                .flat_map(|side| {
                    let lost = [false, true]
                        .map(|undone| Some(Choice::Lose(side, undone && side == turn.authority)));
                    [Some(Choice::Answer(side)), lost[0], lost[1]]
                })
                .collect(),
            _ => vec![None],
        }
    }

    /// Sides that owe the write of a connection.
    pub fn owing(&self, index: usize) -> impl Iterator<Item = Side> + use<> {
        let owed = match self.flows[index].at {
            At::Open(turn) => turn.owed,
            _ => [false; 2],
        };
        Side::BOTH.into_iter().filter(move |side| owed[*side as usize])
    }

    /// Whether a connection's next packet may begin something.
    pub fn is_idle(&self, index: usize) -> bool {
        matches!(self.flows[index].at, At::Idle | At::Held)
    }

    /// Whether a connection's packet waits for the thaw.
    pub fn is_held(&self, index: usize) -> bool {
        self.flows[index].at == At::Held
    }

    /// One atomic operation of one connection's packet.
    pub fn step(&mut self, index: usize, choice: Option<Choice>) {
        let flow = self.flows[index];
        self.flows[index].at = match (flow.at, choice) {
            (At::Idle | At::Held, Some(Choice::Read(draw))) => self.arrives(index, Some(draw)),
            (At::Idle | At::Held, _) => self.arrives(index, None),
            (At::Counted, _) => self.load(index),
            (At::Due(old, thawed), _) => {
                self.seen.ended += 1;
                At::Read(self.swap(old, thawed).unwrap_or(self.word))
            }
            (At::Read(word), _) => self.decide(index, word),
            (At::Open(_), _) if flow.reads.is_some() => At::Idle,
            (At::Open(turn), Some(Choice::Answer(side))) => self.answer(turn, side),
            (At::Open(turn), Some(Choice::Lose(side, undone))) if side == turn.authority => {
                self.lose_authority(turn, undone)
            }
            (At::Open(turn), Some(Choice::Lose(side, _))) => {
                self.lacks[side as usize] = true;
                At::Losing(turn, side)
            }
            (At::Open(turn), _) => Self::went_on(turn),
            (At::Losing(mut turn, side), _) => {
                self.put_out(side);
                turn.owed[side as usize] = false;
                Self::went_on(turn)
            }
            (At::Doubting(mut turn), _) => {
                self.in_doubt += 1;
                turn.owed[turn.authority as usize] = false;
                Self::went_on(turn)
            }
            (At::Finished, _) => {
                self.finished += 1;
                At::Idle
            }
        };
        if self.flows[index].at == At::Idle {
            self.flows[index].arrived = 0;
        }
        self.check();
    }

    /// A packet comes that begins a turn.
    fn arrives(&mut self, index: usize, reads: Option<u32>) -> At {
        self.flows[index].arrived = self.now;
        self.flows[index].reads = reads;
        if reads.is_none() && self.mutant != Some(Mutant::ReadFirst) {
            self.begun += 1;
            return At::Counted;
        }
        self.load(index)
    }

    /// Reads the word.
    fn load(&self, index: usize) -> At {
        let word = self.word;
        match self.armed.passed(word, self.flows[index].arrived) {
            None => At::Read(word),
            Some(thawed) if self.mutant == Some(Mutant::ClockAlone) => At::Read(thawed),
            Some(thawed) => At::Due(word, thawed),
        }
    }

    /// Under the flow's lock, by the word as it was read: the turn begins, or is held.
    fn decide(&mut self, index: usize, word: SwitchWord) -> At {
        let flow = self.flows[index];
        if let Some(draw) = flow.reads {
            let side = if draw < word.weight() { Side::Shadow } else { Side::Primary };
            if !word.member(side) {
                self.break_rule("a read for a side that is out of sync");
            }
            return At::Open(Turn { authority: side, owed: [false; 2], counted: false });
        }
        if self.mutant == Some(Mutant::ReadFirst) {
            self.begun += 1;
        }
        if word.frozen() {
            self.finished += 1;
            self.seen.held += 1;
            if flow.arrived >= self.bound {
                self.break_rule("held past the freeze's deadline");
            }
            return At::Held;
        }
        self.copied = false;
        let me = word.authority();
        if me != self.word.authority() {
            self.break_rule("a write begins under the old word");
        }
        let owed = Side::BOTH.map(|side| word.member(side));
        for side in Side::BOTH {
            if !owed[side as usize] {
                self.lacks[side as usize] = true;
            }
        }
        At::Open(Turn { authority: me, owed, counted: true })
    }

    /// A leg answers a write.
    fn answer(&mut self, mut turn: Turn, side: Side) -> At {
        let me = turn.authority;
        turn.owed[side as usize] = false;
        if side == me && self.mutant == Some(Mutant::FinishedGate) && turn.counted {
            turn.counted = false;
            self.finished += 1;
        }
        if side == me && self.in_doubt > 0 {
            // It lives: what it may have left undone, the mirror has done.
            return At::Losing(turn, me.other());
        }
        Self::went_on(turn)
    }

    /// Whether the authority has done it nobody knows; `left_undone` does.
    fn lose_authority(&mut self, mut turn: Turn, left_undone: bool) -> At {
        let mirror = turn.authority.other();
        if !self.word.member(mirror) {
            turn.owed = [false; 2];
            return Self::went_on(turn);
        }
        self.may_lack |= left_undone;
        At::Doubting(turn)
    }

    fn went_on(turn: Turn) -> At {
        match (turn.owed, turn.counted) {
            ([false, false], true) => At::Finished,
            ([false, false], false) => At::Idle,
            _ => At::Open(turn),
        }
    }

    /// The rules that hold after every step.
    fn check(&mut self) {
        let word = self.word;
        if !word.member(word.authority()) {
            self.break_rule("the authority is out of sync");
        }
        if word.weight() > 0 && !word.member(Side::Shadow)
            || word.weight() < ALL && !word.member(Side::Primary)
        {
            self.break_rule("reads for a side that is out of sync");
        }
        for side in Side::BOTH {
            let losing = |flow: &Flow| matches!(flow.at, At::Losing(_, lost) if lost == side);
            if word.member(side) && self.lacks[side as usize] && !self.flows.iter().any(losing) {
                self.break_rule("in sync, and lacks a write");
            }
        }
        let me = word.authority();
        let other =
            |flow: &Flow| matches!(flow.at, At::Open(turn) if flow.reads.is_none() && turn.authority != me);
        if self.flows.iter().any(other) {
            self.break_rule("two authorities");
        }
    }

    /// Whether nothing is frozen, and nothing waits.
    pub fn is_calm(&self) -> bool {
        !self.word.frozen() && self.flows.iter().all(|flow| flow.at != At::Held)
    }
}
