//! Ailments that a test gives a running server: `PUT /ill?delay_ms=30&errors=0.1&differs=0.1` makes its reads slow,
//! and some of them fail or tell of another state; `hostile=dribble` and its like mistreat whoever asks for lists, or writes.

use std::time::Duration;

use super::super::http::{Answer, Head, Method};
use super::connection::Hostility;
use crate::wire::Dice;

/// What ails a server. Its lists stay right.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Ill {
    /// Every read takes so much longer.
    pub(super) delay: Duration,
    /// This share of the reads is answered by an error, in millionths.
    errors: u64,
    /// Instead of this share of them a reset is sent, in millionths.
    resets: u64,
    /// This share of them is answered otherwise, at the same length, in millionths.
    differs: u64,
    /// It stops listening, for good; who is connected stays so.
    pub(super) deaf: bool,
    /// What connections and requests get instead of answers.
    pub(super) hostility: Option<Hostility>,
}

impl Ill {
    /// The ailment that a request brings, if it is one for that.
    pub(super) fn brought_by(head: &Head) -> Option<Result<Self, &'static str>> {
        (head.path == "/ill" && head.method == Method::Put).then(|| Self::parse(&head.query))
    }

    fn parse(query: &str) -> Result<Self, &'static str> {
        const HOW: &str =
            "delay_ms=MS, deaf=1, hostile=HOW; errors, resets, differs: from 0 to 1; nothing to get well\n";
        let mut ill = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or(HOW)?;
            if name == "hostile" {
                ill.hostility = Some(Hostility::named(value).ok_or(HOW)?);
                continue;
            }
            let value: f64 = value.parse().map_err(|_| HOW)?;
            match name {
                "delay_ms" => ill.delay = Duration::try_from_secs_f64(value / 1e3).map_err(|_| HOW)?,
                "errors" if (0.0..=1.0).contains(&value) => ill.errors = (value * 1e6) as u64,
                "resets" if (0.0..=1.0).contains(&value) => ill.resets = (value * 1e6) as u64,
                "differs" if (0.0..=1.0).contains(&value) => ill.differs = (value * 1e6) as u64,
                "deaf" => ill.deaf = value > 0.0,
                _ => return Err(HOW),
            }
        }
        Ok(ill)
    }

    /// How a request is mistreated, if it is.
    pub(super) fn hostility_to(self, head: &Head) -> Option<Hostility> {
        self.hostility.filter(|_| head.path.starts_with("/lists"))
    }

    /// Whether a read suffers from it.
    pub(super) fn affects(self, head: &Head) -> bool {
        matches!(head.method, Method::Get | Method::Head) && head.path.starts_with("/lists")
    }

    /// Whether a request's connection is reset.
    pub(super) fn resets(self, head: &Head, dice: &mut Dice) -> bool {
        self.affects(head) && dice.below(1_000_000) < self.resets
    }

    /// The error that a request gets instead of an answer.
    pub(super) fn error(self, head: &Head, dice: &mut Dice) -> Option<Answer> {
        (self.affects(head) && dice.below(1_000_000) < self.errors)
            .then(|| Answer::text("503 Service Unavailable", "ill\n"))
    }

    /// Makes an answer another one of the same length.
    pub(super) fn spoil(self, head: &Head, answer: &mut Answer, dice: &mut Dice) {
        if self.affects(head)
            && dice.below(1_000_000) < self.differs
            && let Some(byte) = answer.body.first_mut()
        {
            *byte ^= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ailment_is_read_from_the_query() {
        let ill = Ill {
            delay: Duration::from_millis(30),
            errors: 100_000,
            resets: 1_000_000,
            differs: 500_000,
            deaf: true,
            hostility: Hostility::named("reset-body"),
        };
        assert!(ill.hostility.is_some());
        let query = "delay_ms=30&errors=0.1&resets=1&differs=0.5&deaf=1&hostile=reset-body";
        assert_eq!(Ill::parse(query), Ok(ill));
        assert_eq!(Ill::parse(""), Ok(Ill::default()));
        for bad in [
            "delay_ms",
            "delay_ms=-1",
            "errors=2",
            "errors=x",
            "differs=2",
            "pain=1",
            "hostile=kind",
            "hostile=fin-there",
        ] {
            assert!(Ill::parse(bad).is_err(), "{bad}");
        }
    }
}
