//! How many tests ran, from what the harness prints.

use std::{
    fmt,
    io::{BufRead, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::command::shown;

/// Tests by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
    left_out: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.left_out += other.left_out;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("ok");
        }
        write!(f, "{} tests passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)?;
        match self.left_out {
            0 => Ok(()),
            tests => write!(f, ", {tests} left out, for what this kernel lacks"),
        }
    }
}

impl Count {
    /// The sum of all that harnesses have said.
    pub(super) fn of(said: &str) -> Self {
        let mut total = Self::default();
        said.lines().filter_map(Self::of_line).for_each(|count| total += count);
        total
    }

    /// So many tests that this machine can't run.
    pub(super) fn left_out(tests: usize) -> Self {
        Self { left_out: tests as u64, ..Self::default() }
    }

    /// Whether a test has passed.
    pub(super) fn has_passed(self) -> bool {
        self.passed > 0
    }

    /// Itself, if it is of anything.
    ///
    /// # Errors
    /// When no test ran: that isn't a success.
    pub(super) fn of_something(self, what: &str) -> Result<Self> {
        if !self.has_passed() {
            bail!("{what} ran no test");
        }
        Ok(self)
    }

    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`.
    fn of_line(line: &str) -> Option<Self> {
        let (_, rest) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let number = |word: &str| -> Option<u64> {
            rest.split(';').find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            ignored: number("ignored")?,
            left_out: 0,
        })
    }
}

/// Runs a test command, passes its output on and counts.
///
/// # Errors
/// When it fails.
pub(super) fn run(command: &mut Command) -> Result<Count> {
    let name = shown(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("can't start `{name}`"))?;
    let mut total = Count::default();
    for line in BufReader::new(child.stdout.take().expect("piped above")).lines() {
        let line = line?;
        if let Some(count) = Count::of_line(&line) {
            total += count;
        }
        println!("{line}");
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{name}`: {total}; {status}");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.1s";
        assert_eq!(Count::of_line(line), Some(Count { passed: 12, failed: 3, ignored: 1, left_out: 0 }));
        assert_eq!(Count::of_line("test a ... ok"), None);
    }

    #[test]
    fn a_command_that_runs_no_test_is_no_success() {
        assert!(run(&mut Command::new("true")).and_then(|count| count.of_something("true")).is_err());
        assert!(
            run(Command::new("sh")
                .args(["-c", "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exit 1"]))
            .is_err()
        );
    }
}
