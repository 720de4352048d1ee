//! How a move is carried out: the next operation on the words, one atomic one at a time. Whoever does them (the daemon, a
//! simulated datapath, a model) has no choice left.
//!
//! ```text
//!   Arm ─► Freeze ─► Count … ─► StartHook ─► PollHook … ─► CountDoubts ─► Flip ─► EndDoubt ─► End
//!             │         │ deadline    │ failed    │ deadline                │ the word is another one
//!             └─► End   └─────────────┴───────────┴─────────────────────────┴─► Thaw ─► End
//! ```

use mirror_common::switch_word::{Freeze, SwitchWord};

use super::Plan;

/// A compare-and-swap: `old`'s low half for that of `state`, with the next epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Swap {
    /// The word that has to stand there.
    pub old: SwitchWord,
    /// Whose low half follows.
    pub state: SwitchWord,
}

/// What is done next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Do {
    /// Say what the next freeze is. Answer: [`Saw::Done`].
    Arm(Freeze),
    /// Freeze writes. Answer: [`Saw::Swapped`].
    Freeze(Swap),
    /// Read how many writes are open; again and again, with pauses. Answer: [`Saw::Open`].
    Count,
    /// Read how many writes are in doubt. Answer: [`Saw::InDoubt`].
    CountDoubts,
    /// End what waits for a dead authority. Answer: [`Saw::Done`].
    GiveUp,
    /// End what waits for its client: writes that aren't whole yet. Answer: [`Saw::Done`].
    BreakOff,
    /// Start the hook. Answer: [`Saw::HookRuns`] or [`Saw::HookEnded`].
    StartHook,
    /// Look after the hook, with pauses. Answer: as above.
    PollHook,
    /// Kill the hook. Answer: [`Saw::Done`].
    KillHook,
    /// End the move. Answer: [`Saw::Swapped`].
    Flip(Swap),
    /// Behind a move there is no doubt any more about so many writes, those that were counted before it: to be subtracted, for
    /// new ones may have come since. Answer: [`Saw::Done`].
    EndDoubt(u64),
    /// Take the freeze back. Whoever came first, the datapath past its deadline or another daemon: then there is nothing to
    /// take back. Answer: [`Saw::Swapped`].
    Thaw(Swap),
    /// Nothing more: this is how it went.
    End(Result<(), Failed>),
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Saw {
    /// It is done.
    Done,
    /// The new word, or that another one stood there.
    Swapped(Option<SwitchWord>),
    /// Writes begun and not finished.
    Open(i64),
    /// Writes of which nobody knows whether the authority has done them.
    InDoubt(u64),
    /// The hook runs.
    HookRuns,
    /// It has ended: nothing, or why it failed.
    HookEnded(Result<(), String>),
}

/// Why a move wasn't made. The word is as before, or as someone else left it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failed {
    /// Before the freeze.
    #[error("the switch word changed meanwhile; look at `mirror status` and try again")]
    Changed,
    /// So many.
    #[error("aborted: {0} writes weren't finished within the freeze's deadline")]
    Open(i64),
    /// Why.
    #[error("aborted: {0}")]
    Hook(String),
    /// It was killed.
    #[error("aborted: the join hook outlasted the deadline and was killed")]
    HookLate,
    /// Behind the freeze.
    #[error("aborted: the word changed meanwhile (the deadline passed, or a side fell out of sync)")]
    Overtaken,
}

/// How a move is to be carried out, besides its plan. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Writes may be frozen until then.
    pub deadline_ns: u64,
    /// From then on what waits for a dead authority is ended; `None` where it is alive.
    pub give_up_ns: Option<u64>,
    /// From then on writes that their clients haven't sent whole are ended; `None` where they are waited for.
    pub break_off_ns: Option<u64>,
    /// Whether a hook has to succeed before the flip.
    pub hook: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    Arming,
    Freezing,
    Draining,
    Ridding,
    Hook,
    Killing,
    Doubting,
    Flipping,
    Ending,
    Thawing(Failed),
    Ended(Result<(), Failed>),
}

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Course {
    planned: Plan,
    terms: Terms,
    at: At,
    /// The word that the freeze swapped in.
    frozen: SwitchWord,
    /// Writes that were in doubt before the flip.
    doubts: u64,
}

impl Course {
    /// A move that begins, and what is done first.
    pub fn new(planned: Plan, terms: Terms) -> (Self, Do) {
        let freeze = Freeze::of(planned.from, terms.deadline_ns, planned.thawed);
        let frozen = planned.from.next(planned.frozen.state());
        (Self { planned, terms, at: At::Arming, frozen, doubts: 0 }, Do::Arm(freeze))
    }

    /// What follows what was seen of the last operation. Where an answer doesn't fit its operation, the move is taken back.
    pub fn next(&mut self, saw: Saw, now_ns: u64) -> Do {
        let late = now_ns >= self.terms.deadline_ns;
        match (self.at.clone(), saw) {
            (At::Arming, _) => {
                self.at = At::Freezing;
                Do::Freeze(Swap { old: self.planned.from, state: self.planned.frozen })
            }
            (At::Freezing, Saw::Swapped(Some(frozen))) => {
                self.frozen = frozen;
                self.count()
            }
            (At::Freezing, _) => self.end(Err(Failed::Changed)),
            (At::Draining, Saw::Open(open)) if open <= 0 => self.drained(),
            (At::Draining, Saw::Open(open)) => self.waits(open, now_ns),
            (At::Ridding, _) => self.count(),
            (At::Hook, Saw::HookEnded(Ok(()))) => self.doubts(),
            (At::Hook, Saw::HookEnded(Err(why))) => self.thaw(Failed::Hook(why)),
            (At::Hook, _) if late => {
                self.at = At::Killing;
                Do::KillHook
            }
            (At::Hook, _) => Do::PollHook,
            (At::Killing, _) => self.thaw(Failed::HookLate),
            (At::Flipping, Saw::Swapped(Some(_)))
                if self.doubts > 0 && self.planned.done != self.planned.thawed =>
            {
                self.at = At::Ending;
                Do::EndDoubt(self.doubts)
            }
            (At::Flipping, Saw::Swapped(Some(_))) | (At::Ending, _) => self.end(Ok(())),
            (At::Doubting, Saw::InDoubt(doubts)) => self.flip(doubts),
            (At::Draining | At::Doubting | At::Flipping, _) => self.thaw(Failed::Overtaken),
            (At::Thawing(why), _) => self.end(Err(why)),
            (At::Ended(result), _) => Do::End(result),
        }
    }

    fn count(&mut self) -> Do {
        self.at = At::Draining;
        Do::Count
    }

    fn waits(&mut self, open: i64, now_ns: u64) -> Do {
        if now_ns >= self.terms.deadline_ns {
            return self.thaw(Failed::Open(open));
        }
        let due = |at: &mut u64| now_ns >= *at;
        let rid = if self.terms.give_up_ns.take_if(due).is_some() {
            Do::GiveUp
        } else if self.terms.break_off_ns.take_if(due).is_some() {
            Do::BreakOff
        } else {
            return Do::Count;
        };
        self.at = At::Ridding;
        rid
    }

    /// Frozen, and no write open: that is final.
    fn drained(&mut self) -> Do {
        if self.terms.hook {
            self.at = At::Hook;
            Do::StartHook
        } else {
            self.doubts()
        }
    }

    fn doubts(&mut self) -> Do {
        self.at = At::Doubting;
        Do::CountDoubts
    }

    /// What the old authority may have left undone, the new one has done: then the old one is out of sync from the flip on.
    fn flip(&mut self, doubts: u64) -> Do {
        self.at = At::Flipping;
        self.doubts = doubts;
        let (from, done) = (self.planned.from.authority(), self.planned.done);
        let state = if doubts > 0 && done.authority() != from { done.with_member(from, false) } else { done };
        Do::Flip(Swap { old: self.frozen, state })
    }

    fn thaw(&mut self, why: Failed) -> Do {
        self.at = At::Thawing(why);
        Do::Thaw(Swap { old: self.frozen, state: self.planned.thawed })
    }

    fn end(&mut self, result: Result<(), Failed>) -> Do {
        self.at = At::Ended(result.clone());
        Do::End(result)
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::switch_word::Side;

    use super::*;
    use crate::moves::{Move, plan};

    fn cutover(give_up_ns: Option<u64>, hook: bool) -> (Course, Do) {
        let word = SwitchWord::initial().with_member(Side::Shadow, true);
        Course::new(
            plan(word, Move::Cutover).unwrap(),
            Terms { deadline_ns: 100, give_up_ns, break_off_ns: None, hook },
        )
    }

    /// Answers swaps as if nobody else swapped, and each other operation by the next of `answers`, at its time. Returns what
    /// was done, by name, and how it ended.
    fn follow(
        (mut course, mut todo): (Course, Do),
        answers: &[(u64, Saw)],
    ) -> (Vec<String>, Result<(), Failed>) {
        let mut answers = answers.iter();
        let mut names = Vec::new();
        let mut now = 0;
        loop {
            let name = format!("{todo:?}");
            names.push(name.split('(').next().unwrap_or_default().to_owned());
            let saw = match todo {
                Do::End(result) => return (names, result),
                Do::CountDoubts => Saw::InDoubt(0),
                Do::Freeze(swap) | Do::Flip(swap) | Do::Thaw(swap) => {
                    Saw::Swapped(Some(swap.old.next(swap.state.state())))
                }
                Do::Arm(_) | Do::GiveUp | Do::BreakOff | Do::KillHook | Do::EndDoubt(_) => Saw::Done,
                Do::Count | Do::StartHook | Do::PollHook => {
                    let (at, saw) = answers.next().expect("no answer left").clone();
                    now = at;
                    saw
                }
            };
            todo = course.next(saw, now);
        }
    }

    #[test]
    fn it_waits_for_open_writes_and_flips() {
        let (done, result) = follow(cutover(None, false), &[(1, Saw::Open(2)), (2, Saw::Open(0))]);
        assert_eq!(done, ["Arm", "Freeze", "Count", "Count", "CountDoubts", "Flip", "End"]);
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn past_its_deadline_it_thaws() {
        let (done, result) = follow(cutover(None, false), &[(1, Saw::Open(2)), (100, Saw::Open(2))]);
        assert_eq!(done, ["Arm", "Freeze", "Count", "Count", "Thaw", "End"]);
        assert_eq!(result, Err(Failed::Open(2)));
        let (done, result) =
            follow(cutover(None, true), &[(1, Saw::Open(0)), (2, Saw::HookRuns), (100, Saw::HookRuns)]);
        assert_eq!(done, ["Arm", "Freeze", "Count", "StartHook", "PollHook", "KillHook", "Thaw", "End"]);
        assert_eq!(result, Err(Failed::HookLate));
    }

    #[test]
    fn a_dead_authority_is_given_up_once() {
        let waits = [(1, Saw::Open(1)), (50, Saw::Open(1)), (51, Saw::Open(1)), (52, Saw::Open(0))];
        let (done, result) = follow(cutover(Some(50), false), &waits);
        assert_eq!(done.iter().filter(|name| *name == "GiveUp").count(), 1);
        assert_eq!(result, Ok(()));
    }

    #[test]
    fn what_waits_for_its_client_is_broken_off_once_and_for_what_doesnt_it_thaws() {
        let course = |open| {
            let word = SwitchWord::initial().with_member(Side::Shadow, true);
            let terms = Terms { deadline_ns: 100, give_up_ns: None, break_off_ns: Some(50), hook: false };
            let planned = plan(word, Move::Cutover).unwrap();
            let waits =
                [(1, Saw::Open(2)), (50, Saw::Open(2)), (51, Saw::Open(open)), (100, Saw::Open(open))];
            follow(Course::new(planned, terms), &waits)
        };
        let (done, result) = course(0);
        assert_eq!(
            done,
            ["Arm", "Freeze", "Count", "Count", "BreakOff", "Count", "CountDoubts", "Flip", "End"]
        );
        assert_eq!(result, Ok(()));
        let (done, result) = course(1);
        assert_eq!(done.iter().filter(|name| *name == "BreakOff").count(), 1);
        assert_eq!(result, Err(Failed::Open(1)));
    }

    #[test]
    fn a_hook_that_fails_changes_nothing() {
        let hook = [(1, Saw::Open(0)), (2, Saw::HookEnded(Err("exit status 1".into())))];
        let (done, result) = follow(cutover(None, true), &hook);
        assert_eq!(done[3..], ["StartHook", "Thaw", "End"]);
        assert_eq!(result, Err(Failed::Hook("exit status 1".into())));
    }

    #[test]
    fn a_word_that_changed_is_nobodys_to_thaw_before_the_freeze_and_isnt_flipped_behind_it() {
        let (mut course, _) = cutover(None, false);
        course.next(Saw::Done, 0);
        assert_eq!(course.next(Saw::Swapped(None), 0), Do::End(Err(Failed::Changed)));
        let (mut course, _) = cutover(None, false);
        course.next(Saw::Done, 0);
        course.next(Saw::Swapped(Some(SwitchWord::initial())), 0);
        assert_eq!(course.next(Saw::Open(0), 0), Do::CountDoubts);
        assert!(matches!(course.next(Saw::InDoubt(0), 0), Do::Flip(_)));
        assert!(matches!(course.next(Saw::Swapped(None), 0), Do::Thaw(_)));
        assert_eq!(course.next(Saw::Swapped(None), 0), Do::End(Err(Failed::Overtaken)));
    }

    #[test]
    fn what_the_old_authority_may_lack_puts_it_out_at_the_flip() {
        for (doubts, stays) in [(0, true), (2, false)] {
            let (mut course, _) = cutover(None, false);
            course.next(Saw::Done, 0);
            course.next(Saw::Swapped(Some(SwitchWord::initial())), 0);
            course.next(Saw::Open(0), 0);
            let Do::Flip(swap) = course.next(Saw::InDoubt(doubts), 0) else { panic!("no flip") };
            assert_eq!(swap.state.authority(), Side::Shadow);
            assert_eq!(swap.state.member(Side::Primary), stays);
            let next = course.next(Saw::Swapped(Some(swap.state)), 0);
            assert_eq!(next, if stays { Do::End(Ok(())) } else { Do::EndDoubt(doubts) });
        }
    }
}
