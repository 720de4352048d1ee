//! One step of a walk: the transition table, and the short cuts that give what it would, sooner.

use super::table::{BYTES, MATCHES, NEXT, SKIPS, action, state, word};
use super::{MAX_HEAD, WINDOW_WORDS, Walk, flag, swar};

/// Words that a step skips at most.
const WORDS: u32 = 8;

/// The version as a word, and what of it follows an answer's first byte.
const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.1");
const VERSION_OF_ANSWER: u64 = u64::from_le_bytes(*b"TTP/1.1 ");

impl Walk {
    /// Reads a little further: skips some bytes that change nothing, then reads one that may, and those after it that
    /// go with it (a line feed, letters of a word).
    ///
    /// Each call that [`Walk::wants`] asks for moves `at` forward or ends the walk.
    #[inline(always)]
    pub fn step(&mut self) {
        let start = self.at.wrapping_sub(self.window_at);
        let end = self.window_len;
        if start >= end {
            return;
        }
        let word = self.word_at(start);
        if end - start >= 8 {
            self.reject_name(word);
            if self.take_version(word) {
                return;
            }
        }
        let how = SKIPS[(self.scanner.state & 63) as usize];
        let mut at = start;
        let mut word = word;
        let mut stops = swar::stops(word, how);
        for _ in 1..WORDS {
            if stops != 0 {
                break;
            }
            at += 8;
            if at >= end {
                break;
            }
            word = self.word_at(at);
            stops = swar::stops(word, how);
        }
        let skipped = if stops == 0 { 8 } else { swar::first(stops) };
        if at.wrapping_add(skipped) >= end {
            self.advance(end - start);
        } else if stops == 0 {
            self.advance(at.wrapping_add(8) - start);
        } else {
            self.advance(at.wrapping_add(skipped) - start);
            self.take_some(word >> (skipped * 8), end.wrapping_sub(at.wrapping_add(skipped)).min(8 - skipped));
        }
        if self.scanner.head_bytes > MAX_HEAD {
            self.lose();
        }
    }

    /// Eight bytes from offset `at` of the window on.
    #[inline(always)]
    fn word_at(&self, at: u32) -> u64 {
        let index = (at >> 3) as usize;
        let shift = (at & 7) * 8;
        let low = u64::from_le(self.window[index & (WINDOW_WORDS - 1)]);
        let high = u64::from_le(self.window[(index + 1) & (WINDOW_WORDS - 1)]);
        (low >> shift) | ((high << 1) << (63 - shift))
    }

    /// Most names are none of those that matter by their first three letters: they are skipped from the first on.
    #[inline(always)]
    fn reject_name(&mut self, bytes: u64) {
        if self.scanner.state != state::LINE {
            return;
        }
        let letter = |place: usize| (BYTES[(bytes >> (8 * place)) as u8 as usize] >> 8) as usize & 31;
        let first = letter(0);
        let left = word::NAMES & MATCHES[0][first] & MATCHES[1][letter(1)] & MATCHES[2][letter(2)];
        if first != 0 && left == 0 {
            self.other_name();
        }
    }

    /// Takes the version whole, where it is next.
    #[inline(always)]
    fn take_version(&mut self, bytes: u64) -> bool {
        let next = match (self.scanner.state, bytes) {
            (state::VERSION_H, VERSION) => state::REQUEST_LINE_CR,
            (state::ANSWER_T1, VERSION_OF_ANSWER) => state::STATUS_1,
            _ => return false,
        };
        self.advance(8);
        self.scanner.state = next;
        true
    }

    /// Takes the first of `have` bytes (1 to 8), and those behind it that go with it.
    #[inline(always)]
    fn take_some(&mut self, bytes: u64, have: u32) {
        self.advance(1);
        self.take(bytes as u8);
        let now = self.scanner.state;
        if now == state::LINE_LF && have > 1 && (bytes >> 8) as u8 == b'\n' {
            self.advance(1);
            self.scanner.state = state::LINE;
            return;
        }
        self.match_run(bytes >> 8, have.wrapping_sub(1));
    }

    /// Takes letters as long as they only go on with the word under way: at most seven, and at most `have`.
    #[inline(always)]
    fn match_run(&mut self, bytes: u64, have: u32) {
        let row = self.scanner.state;
        if !matches!(row, state::NAME | state::METHOD) {
            return;
        }
        let goes_on = u16::from(row) | u16::from(action::MATCH) << 8;
        let mut bytes = bytes;
        for taken in 0..7 {
            let entry = BYTES[bytes as u8 as usize];
            let goes_on = NEXT[(row & 63) as usize][(entry & 31) as usize] == goes_on;
            if taken >= have || !goes_on || self.scanner.state != row {
                return;
            }
            self.advance(1);
            self.match_letter((entry >> 8) as u8);
            bytes >>= 8;
        }
    }

    /// One transition.
    #[inline(always)]
    fn take(&mut self, byte: u8) {
        let entry = BYTES[byte as usize];
        let next = NEXT[(self.scanner.state & 63) as usize][(entry & 31) as usize];
        self.scanner.state = next as u8;
        self.act((next >> 8) as u8, byte, (entry >> 8) as u8);
    }

    #[inline(always)]
    fn advance(&mut self, bytes: u32) {
        self.at = self.at.wrapping_add(bytes);
        self.scanner.head_bytes = self.scanner.head_bytes.saturating_add(bytes as u16);
    }

    /// What a transition does besides moving on.
    #[inline(always)]
    fn act(&mut self, what: u8, byte: u8, letter: u8) {
        match what {
            action::BEGIN => self.begin_message(byte, letter),
            action::FIRST => self.first_letter(letter),
            action::MATCH => self.match_letter(letter),
            action::NO_MATCH => self.scanner.candidates = 0,
            action::METHOD_END => self.end_method(),
            action::ODD => self.scanner.flags |= flag::ODD,
            action::OLD => self.scanner.flags |= flag::OLD,
            action::NAME_END => self.end_name(),
            action::DECIMAL => self.decimal_digit(byte),
            action::HEX_FIRST => self.hex_digit(0, byte),
            action::HEX => self.hex_digit(self.scanner.length, byte),
            action::STATUS_FIRST => self.status_digit(0, byte),
            action::STATUS => self.status_digit(self.scanner.status, byte),
            action::OPTION_END => self.end_option(),
            action::CODING_END => self.end_coding(),
            action::HEAD_END => self.end_head(),
            action::CHUNK_BEGIN => self.begin_chunk(),
            action::CHUNKED_END => self.end_chunked(),
            _ => {}
        }
    }
}
