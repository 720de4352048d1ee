//! Lines of the journal: every decision with its reason, whole states, each line with a checksum.
//!
//! A line is eight hexadecimal digits (CRC-32 of what follows the blank), a blank, and an [`Entry`] as JSON: readable by
//! `tail`. A line that was cut short by a crash can only be the last one, and is dropped; anything else that doesn't hold is
//! said.

use serde::{Deserialize, Serialize};

use crate::{
    appointment::{Appointment, Note},
    migration::{Action, Command, Plan, State, Why},
    moves::Phases,
    scaler::Decision,
};

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A migration was asked for, by whom; decided by this plan to its end.
    Begun(Box<Plan>, String),
    /// From here on it is decided by this plan, for the policy is another one; who changed it.
    Replanned(Box<Plan>, String),
    /// Something was decided; carried out behind this line.
    Decided(Vec<Action>),
    /// A move has ended.
    Moved,
    /// An operator asked for something.
    Asked(Command, String),
    /// Something became of a cutover that was ordered beforehand; the reason says what.
    Appointment,
    /// The size of the provisioned shadow was decided on: of which resource, in units of what the scaler adds and takes away.
    Scaled(String, Decision),
    /// A side's circuit breaker stands otherwise: whose; the reason says how.
    Breaker(String),
}

impl What {
    /// Whether it is none of a migration's own steps: its line has the state of whatever migration there is, or was.
    pub fn is_beside(&self) -> bool {
        matches!(self, What::Appointment | What::Scaled(..) | What::Breaker(_) | What::Replanned(..))
    }
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up by one.
    pub number: u64,
    /// Milliseconds since 1970, UTC; for people: nothing is decided by it.
    pub at_ms: u64,
    /// The application.
    pub app: String,
    /// What happened.
    pub what: What,
    /// Why; nothing at the very beginning.
    pub why: Option<Why>,
    /// The same in words.
    pub words: String,
    /// How long the move took, where this is the end of one that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// What stands from here on.
    pub state: State,
}

/// Why a journal can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// In the middle of the file.
    #[error("line {line} of the journal is damaged ({what}): move the file away to begin anew")]
    Damaged {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Entry {
    /// The line, its end included.
    ///
    /// # Errors
    /// When a number in it is none.
    pub fn line(&self) -> serde_json::Result<String> {
        let json = serde_json::to_string(self)?;
        Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
    }

    fn parse(line: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(line).map_err(|_| "no text")?;
        let (sum, json) = text.split_once(' ').ok_or("no checksum")?;
        let sum = u32::from_str_radix(sum, 16).map_err(|_| "no checksum")?;
        if sum != crc32fast::hash(json.as_bytes()) {
            return Err("its checksum is another one");
        }
        serde_json::from_str(json).map_err(|_| "of another version")
    }
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Journal {
    /// In their order.
    pub entries: Vec<Entry>,
    /// Bytes that hold; what lies behind them was cut short.
    pub sound: usize,
}

impl Journal {
    /// Reads a whole file.
    ///
    /// # Errors
    /// When a line that isn't the last is damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, JournalError> {
        let mut journal = Self::default();
        for (index, piece) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let end = journal.sound + piece.len();
            let Some(line) = piece.strip_suffix(b"\n") else { break };
            match Entry::parse(line) {
                Ok(entry) => journal.entries.push(entry),
                Err(_) if end == bytes.len() => break,
                Err(what) => return Err(JournalError::Damaged { line: index + 1, what }),
            }
            journal.sound = end;
        }
        Ok(journal)
    }

    /// The plan and the state of the last migration, if there was one.
    pub fn last(&self) -> Option<(Plan, State)> {
        let begun = self.entries.iter().rev().find_map(|entry| match &entry.what {
            What::Begun(plan, _) | What::Replanned(plan, _) => Some(plan.as_ref().clone()),
            _ => None,
        });
        Some((begun?, self.entries.last()?.state.clone()))
    }

    /// Why the last migration stands where it does.
    pub fn last_why(&self) -> Option<&Why> {
        let mut steps = self.entries.iter().rev().filter(|entry| !entry.what.is_beside());
        steps.next().and_then(|entry| entry.why.as_ref())
    }

    /// The cutover that is ordered and not done with.
    pub fn appointment(&self) -> Option<Appointment> {
        let mut notes = self.entries.iter().rev().filter_map(|entry| match &entry.why {
            Some(Why::Appointment(note)) => Some(note),
            _ => None,
        });
        // The newest note that orders or ends decides.
        notes.find(|note| note.ends() || matches!(note, Note::Ordered(_))).and_then(|note| match note {
            Note::Ordered(order) => Some(order.clone()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entries: u64) -> String {
        let plan = Plan::default();
        let entry = |number| Entry {
            number,
            at_ms: 1_700_000_000_000 + number,
            app: "shop".into(),
            what: if number == 0 {
                What::Begun(Box::new(plan.clone()), "ann".into())
            } else {
                What::Decided(vec![Action::Weigh(100 * number as u32), Action::BeginStep])
            },
            why: Some(Why::StandingBy(number as f64)),
            words: "so".into(),
            phases: None,
            state: State::new(&plan),
        };
        (0..entries).map(|number| entry(number).line().unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let text = text(3);
        let journal = Journal::read(text.as_bytes()).unwrap();
        assert_eq!((journal.entries.len(), journal.sound), (3, text.len()));
        assert_eq!(journal.last(), Some((Plan::default(), State::new(&Plan::default()))));
        assert!(text.lines().nth(1).unwrap().contains(r#""decided":[{"weigh":100},"begin_step"]"#), "{text}");
    }

    #[test]
    fn a_plan_that_changed_under_way_is_the_one_that_holds() {
        let plan = Plan { cutover_by_itself: !Plan::default().cutover_by_itself, ..Plan::default() };
        let replanned = Entry {
            number: 2,
            at_ms: 0,
            app: "shop".into(),
            what: What::Replanned(Box::new(plan.clone()), "ann".into()),
            why: None,
            words: String::new(),
            phases: None,
            state: State::new(&plan),
        };
        let journal = Journal::read((text(2) + &replanned.line().unwrap()).as_bytes()).unwrap();
        assert_eq!(journal.last().map(|(holds, _)| holds), Some(plan));
        assert_eq!(journal.last_why(), Some(&Why::StandingBy(1.0)), "nothing was decided by it yet");
    }

    /// C9: no half line is believed.
    #[test]
    fn cut_at_every_byte_it_has_every_whole_line() {
        let text = text(3);
        for cut in 0..text.len() {
            let journal = Journal::read(&text.as_bytes()[..cut]).unwrap();
            let whole = text[..cut].matches('\n').count();
            assert_eq!(journal.entries.len(), whole, "cut at {cut}");
            assert_eq!(journal.sound, text[..cut].rfind('\n').map_or(0, |end| end + 1), "cut at {cut}");
        }
    }

    #[test]
    fn an_ordered_cutover_is_found_until_it_is_done_with() {
        let order = Appointment {
            at_ms: 5,
            until_ms: 9,
            by_migration: false,
            who: "ann".into(),
            despite: Vec::new(),
        };
        let entry = |note: Note| Entry {
            number: 0,
            at_ms: 0,
            app: "shop".into(),
            what: What::Appointment,
            words: note.to_string(),
            phases: None,
            why: Some(Why::Appointment(note)),
            state: State::new(&Plan::default()),
        };
        let mut text = text(2) + &entry(Note::Ordered(order.clone())).line().unwrap();
        text += &entry(Note::ClockSet(-3)).line().unwrap();
        let journal = Journal::read(text.as_bytes()).unwrap();
        assert_eq!((journal.entries.len(), journal.appointment()), (4, Some(order)));
        assert_eq!(journal.last_why(), Some(&Why::StandingBy(1.0)));
        text += &entry(Note::Missed).line().unwrap();
        assert_eq!(Journal::read(text.as_bytes()).unwrap().appointment(), None);
    }

    #[test]
    fn a_byte_that_changed_is_found() {
        let text = text(3);
        let middle = text.lines().next().unwrap().len() + 40;
        for at in [3, 40, middle] {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let line = 1 + usize::from(at == middle);
            let damaged = Journal::read(&bytes).unwrap_err();
            assert!(
                matches!(damaged, JournalError::Damaged { line: found, .. } if found == line),
                "{damaged}"
            );
        }
        let mut bytes = text.clone().into_bytes();
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
        assert_eq!(
            Journal::read(&bytes).unwrap().entries.len(),
            2,
            "of the last line it can't be told from a cut"
        );
    }
}
