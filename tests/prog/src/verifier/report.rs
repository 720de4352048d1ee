//! What came of loading a program.

use std::{io, time::Duration};

use aya_obj::generated::bpf_prog_info;
use serde::Serialize;

/// One program's outcome.
pub struct Outcome {
    /// The program's name in the object.
    pub name: String,
    /// Whether it loaded.
    pub verdict: Verdict,
    /// The verifier's log: the summary, or all of it after a refusal.
    pub log: String,
    /// The time that loading took, compilation to machine code included.
    pub elapsed: Duration,
}

/// Whether a program loaded.
pub enum Verdict {
    /// It did, at this cost.
    Loaded(Cost),
    /// It didn't.
    Refused(io::Error),
}

/// What a program costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Instructions of the program.
    pub instructions: u64,
    /// Instructions that the verifier walked, of 1,000,000.
    pub verified: u64,
    /// States that it kept in all.
    pub states: u64,
    /// States that it kept at once at most.
    pub peak_states: u64,
    /// Bytes of stack over the deepest chain of calls, of 512.
    pub stack: u64,
    /// Bytes of machine code.
    pub jited: u64,
}

impl Cost {
    pub(super) fn new(info: &bpf_prog_info, instructions: usize, log: &str) -> Self {
        Self {
            instructions: instructions as u64,
            verified: u64::from(info.verified_insns),
            states: number_after(log, "total_states "),
            peak_states: number_after(log, "peak_states "),
            stack: stack(log),
            jited: u64::from(info.jited_prog_len),
        }
    }
}

/// The number behind a word of the summary; 0 if the kernel doesn't say it.
fn number_after(log: &str, word: &str) -> u64 {
    let Some((_, rest)) = log.rsplit_once(word) else { return 0 };
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The kernel prints the stack of each subprogram, as `stack depth 48+16+0`; the chain's limit is their sum at most. Later ones
/// (seen in 7.3) print the chain's own, as `stack depth max 48`.
fn stack(log: &str) -> u64 {
    let Some((_, rest)) = log.rsplit_once("stack depth ") else { return 0 };
    let depths = rest.lines().next().unwrap_or_default();
    let depths = depths.strip_prefix("max ").unwrap_or(depths);
    depths.split('+').filter_map(|depth| depth.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "verification time 120 usec\nstack depth 48+16+0\n\
        processed 548 insns (limit 1000000) max_states_per_insn 1 total_states 31 peak_states 29 mark_read 4\n";

    #[test]
    fn summary_is_read() {
        assert_eq!(number_after(LOG, "total_states "), 31);
        assert_eq!(number_after(LOG, "peak_states "), 29);
        assert_eq!(stack(LOG), 64);
        assert_eq!(
            stack("stack depth max 48\nsubprog 0 (look) main insns_self 22 insns_total 154 stack 16\n"),
            48
        );
    }

    #[test]
    fn what_is_not_said_is_nought() {
        assert_eq!(number_after("", "total_states "), 0);
        assert_eq!(stack("stack depth \n"), 0);
    }
}
