//! A mirror that is in sync and answers otherwise all the same is put out, brought up to date and joined again: one move to
//! whoever asks for it. Each of its swaps is a whole move's, so that a daemon that dies between any two leaves nothing half done:
//! the mirror is in sync, with no reads, or it is out of sync and can be joined.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mirror_common::{abi::App, switch_word::Side};
use mirror_control::moves::{Move, Refusal, reads_of};

use super::Shared;
use crate::{
    flows,
    moves::{Mover, Phases},
    policy::Policy,
    state::why,
};

/// Connections whose answers are under way are looked at this often.
const LOOK: Duration = Duration::from_millis(20);

/// How long all of it may take: the reads that the mirror has begun to answer, its writes, and the join.
pub(super) fn longest(policy: &Policy) -> Duration {
    2 * policy.join_deadline + policy.freeze
}

impl Shared {
    /// Joins the side without authority; where it is in sync, it is put out first. `who` asked.
    ///
    /// # Errors
    /// As [`Shared::make`]. Where the join fails, the side is out of sync: the hook may have copied half.
    pub(super) fn join_again(&self, who: &str) -> Result<Phases> {
        self.one(Move::Join, who, false, |mover| {
            let word = mover.words.load(0);
            let mirror = word.authority().other();
            let was_in_sync = word.member(mirror);
            if was_in_sync {
                self.put_out(mover, mirror)?;
            }
            let joined = mover.carry_out(Move::Join, false, &mut |which| self.end(which));
            let name = mover.name.as_str();
            match was_in_sync {
                true => joined.with_context(|| {
                    format!("the {} was put out and isn't joined again (mirror join {name})", mirror.name())
                }),
                false => joined,
            }
        })
    }

    /// Gives the authority its share of the reads, waits until no client waits for an answer of the mirror's, and puts it out as
    /// soon as it owes no write.
    fn put_out(&self, mover: &Mover, mirror: Side) -> Result<()> {
        let policy = mover.policy();
        if policy.join_hook.is_empty() {
            return Err(Refusal::NoHook(mirror.name()).into());
        }
        mover.weigh(reads_of(mirror.other()))?;
        self.wait_until_unheard(mirror, policy.join_deadline)?;
        // Before the swap, so that nobody sees the word before it is known why.
        let state = || self.state.lock().map_err(|_| anyhow::anyhow!("poisoned"));
        state()?.puts_out(App::REJOINING);
        let begun = Instant::now();
        let put_out = mover.put_out(&mut |which| self.end(which));
        let mut state = state()?;
        match put_out {
            Ok(phases) => {
                mover.words.keep_reason(0, App::REJOINING);
                state.follow(mover.words.load(0));
                state.say(format!("the {} is {}: {phases}", mirror.name(), why(App::REJOINING)));
                Ok(())
            }
            Err(error) => {
                state.keeps();
                drop(state);
                Err(self.explained(error, begun.elapsed()))
            }
        }
    }

    /// Waits until the mirror has sent all that clients are to hear of it, and they have acknowledged it; those that don't answer
    /// are waited for no longer than `within`.
    fn wait_until_unheard(&self, mirror: Side, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            // First: a packet may be on its way through the programs that has read the word of before.
            std::thread::sleep(LOOK);
            let heard = flows::heard(&self.pins, mirror)?;
            let late = Instant::now() >= deadline;
            if heard.answers == 0 && (heard.unacknowledged == 0 || late) {
                return Ok(());
            }
            ensure!(
                !late,
                "aborted: the {} still owes clients answers ({}): {}; it is in sync, and all other reads are the {}'s",
                mirror.name(),
                heard.answers,
                heard.named.join(", "),
                mirror.other().name()
            );
        }
    }
}
