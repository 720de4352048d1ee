//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use thiserror::Error;

/// How long to rest between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// A condition that did not come true in time.
#[derive(Debug, Error)]
#[error("waited {waited:?} for {what}: it did not happen")]
pub struct TimedOut {
    /// What was waited for, as the caller named it.
    pub what: String,
    /// How long.
    pub waited: Duration,
}

/// Looks at `condition` until it is true, at most for `deadline`.
///
/// # Errors
/// [`TimedOut`], which names `what` was waited for.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<(), TimedOut> {
    wait_for_some(what, deadline, || condition().then_some(()))
}

/// Asks `poll` until it has a value, at most for `deadline`.
///
/// # Errors
/// [`TimedOut`], which names `what` was waited for.
pub fn wait_for_some<T>(
    what: &str,
    deadline: Duration,
    mut poll: impl FnMut() -> Option<T>,
) -> Result<T, TimedOut> {
    let began = Instant::now();
    loop {
        if let Some(value) = poll() {
            return Ok(value);
        }
        if began.elapsed() >= deadline {
            return Err(TimedOut { what: what.to_owned(), waited: deadline });
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        wait_for("three looks", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        })
        .unwrap();
        assert_eq!(looks, 3);
    }

    #[test]
    fn a_condition_that_never_comes_true_is_named() {
        let error = wait_for("the moon", Duration::from_millis(20), || false).unwrap_err();
        assert!(error.to_string().contains("the moon"), "{error}");
    }
}
