//! Circuit breakers: who fell out of sync is asked now and then whether it is well, and comes back when it may.

use anyhow::{Context, Result, anyhow};
use mirror_common::switch_word::Side;
use mirror_control::{
    breaker::{Breaker, Standing},
    journal::What,
    migration::{Stage, Why},
    moves::Move,
};

use super::Thread;
use crate::{
    events::{Kind, Told},
    words::monotonic_ns,
};

/// Who asks for a join that nobody asked for.
const BREAKER: &str = "the circuit breaker";

impl Thread {
    /// Asks whoever is to be asked, says how the breakers stand, and joins again where the policy wants it.
    pub(super) fn look_after_breakers(&mut self) -> Result<()> {
        for side in Side::BOTH {
            self.probe(side)?;
            self.tell_breaker(side)?;
        }
        self.rejoin()
    }

    /// What a breaker says, or is told.
    fn breaker<T>(&self, side: Side, look: impl FnOnce(&mut Breaker) -> T) -> Result<T> {
        let mut state = self.shared.state.lock().map_err(|_| anyhow!("poisoned"))?;
        Ok(look(&mut state.breakers[side as usize]))
    }

    fn probe(&mut self, side: Side) -> Result<()> {
        if !self.breaker(side, |b| b.probe_is_due(monotonic_ns()))? {
            return Ok(());
        }
        if let Some(well) = self.healthy(&[side])?[side as usize] {
            let mut state = self.shared.state.lock().map_err(|_| anyhow!("poisoned"))?;
            state.probed(side, well);
        }
        Ok(())
    }

    /// Says that a breaker stands otherwise than it did: status, log, event, journal.
    fn tell_breaker(&mut self, side: Side) -> Result<()> {
        let (standing, falls, wait) =
            self.breaker(side, |b| (b.standing(), b.falls(), b.next_probe(monotonic_ns())))?;
        if self.breakers[side as usize] == standing {
            return Ok(());
        }
        let wait = wait.unwrap_or_default().as_secs_f64();
        let words = match standing {
            Standing::Closed => format!("{}: breaker closed", side.name()),
            Standing::Open => {
                format!("{}: breaker open (fall {falls}): asked again in {wait:.1} s", side.name())
            }
            Standing::HalfOpen => format!("{}: well again: {}", side.name(), self.way_back(side)),
        };
        // Without its line nobody joins by itself.
        self.keep_beside(What::Breaker(side.name().into()), &Why::Breaker(words.clone()))?;
        self.breakers[side as usize] = standing;
        self.say(words.clone());
        let cause = Some(standing.name().to_owned());
        let told = Told { cause, side: Some(side.name().into()), ..Told::reason(&words) };
        self.shared.events.tell(Kind::Breaker, told);
        Ok(())
    }

    /// Who brings a side back that is well again.
    fn way_back(&self, side: Side) -> String {
        let joins = side == Side::Shadow
            && self.running.as_ref().is_some_and(|running| running.state().stage == Stage::Joining);
        match (self.under_way(), self.shared.mover.policy().breaker.rejoin) {
            (true, _) if joins => "the migration joins it".into(),
            (false, true) => "it joins by itself".into(),
            _ => format!("mirror join {}", self.app()),
        }
    }

    /// A migration under way has rules of its own.
    fn rejoin(&mut self) -> Result<()> {
        let side = self.shared.mover.words.load(0).authority().other();
        if self.under_way() || !self.breaker(side, |b| b.rejoins())? {
            return Ok(());
        }
        let made = self.shared.make(Move::Join, BREAKER).map(drop);
        if made.is_err() {
            self.breaker(side, |b| b.probed(false, monotonic_ns()))?;
        }
        self.tell_breaker(side)?;
        made.with_context(|| format!("the {} doesn't join by itself", side.name()))
    }

    /// Health checks as a migration is to see them: who fell out and hasn't been found well since isn't well.
    pub(super) fn as_breakers_say(&self, mut healthy: [Option<bool>; 2]) -> Result<[Option<bool>; 2]> {
        for side in Side::BOTH {
            if !self.breaker(side, |b| b.may_join())? {
                healthy[side as usize] = Some(false);
            }
        }
        Ok(healthy)
    }
}
