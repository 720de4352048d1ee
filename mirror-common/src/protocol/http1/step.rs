//! One step of a walk: the transition table, and the short cuts that give what it would, sooner.

use super::table::{BYTES, MATCHES, NEXT, SKIPS, action, state, word};
use super::{MAX_HEAD, WINDOW_WORDS, Walk, flag, swar};

/// Words that a step skips at most.
const WORDS: u32 = 8;

/// The version as a word, and what of it follows an answer's first byte.
const VERSION: u64 = u64::from_le_bytes(*b"HTTP/1.1");
const VERSION_OF_ANSWER: u64 = u64::from_le_bytes(*b"TTP/1.1 ");
/// The rest of the commonest status line.
const STATUS_OK: u64 = u64::from_le_bytes(*b"200 OK\r\n");

impl Walk {
    /// Reads a little further: skips some bytes that change nothing, then reads one that may, and those after it that
    /// go with it (a line feed, letters of a word, digits of a length).
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
        let ahead = if end - start >= 8 { self.short_cut(word) } else { 0 };
        self.advance(ahead);
        if ahead < 8 {
            self.skip_and_take(start + ahead, end);
        }
        if self.scanner.head_bytes > MAX_HEAD {
            self.lose();
        }
    }

    /// Skips from offset `start` of the window on, which is before its `end`, and takes what stops it.
    #[inline(always)]
    fn skip_and_take(&mut self, start: u32, end: u32) {
        let how = SKIPS[(self.scanner.state & 63) as usize];
        let mut at = start;
        let mut word = self.word_at(at);
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
        let stop = at.wrapping_add(skipped);
        if stop >= end {
            self.advance(end - start);
        } else if stops == 0 {
            self.advance(stop - start);
        } else {
            self.advance(stop - start);
            self.take_some(word >> (skipped * 8), (end - stop).min(8 - skipped));
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
        let letter = |place: usize| (BYTES[(bytes >> (8 * place)) as u8 as usize] >> 8) as usize & 31;
        let first = letter(0);
        let left = word::NAMES & MATCHES[0][first] & MATCHES[1][letter(1)] & MATCHES[2][letter(2)];
        if first != 0 && left == 0 {
            self.other_name();
        }
    }

    /// What the transition table would come to by several bytes of `bytes`, at once. Returns how many: 8 when that is
    /// all that there is to do, else 0 or 1.
    #[inline(always)]
    fn short_cut(&mut self, bytes: u64) -> u32 {
        match self.scanner.state {
            state::LINE if bytes as u8 == b'\r' => {
                self.scanner.state = state::HEAD_LF;
                1
            }
            state::LINE => {
                self.reject_name(bytes);
                0
            }
            state::LENGTH_FIRST | state::OPTION_FIRST | state::CODING_FIRST => u32::from(bytes as u8 == b' '),
            state::VERSION_H if bytes == VERSION => {
                self.scanner.state = state::REQUEST_LINE_CR;
                8
            }
            state::ANSWER_T1 if bytes == VERSION_OF_ANSWER => {
                self.scanner.state = state::STATUS_1;
                8
            }
            state::STATUS_1 if bytes == STATUS_OK => {
                self.scanner.status = 200;
                self.scanner.state = state::LINE;
                8
            }
            _ => 0,
        }
    }

    /// Takes the first of `have` bytes (1 to 8), and those behind it that go with it.
    #[inline(always)]
    fn take_some(&mut self, bytes: u64, have: u32) {
        self.advance(1);
        self.take(bytes as u8);
        let behind = bytes >> 8;
        let left = have.wrapping_sub(1);
        match self.scanner.state {
            state::LINE_LF if left > 0 && behind as u8 == b'\n' => {
                self.advance(1);
                self.scanner.state = state::LINE;
            }
            state::NAME | state::METHOD | state::OPTION | state::CODING => self.match_run(behind, left),
            state::LENGTH => self.digit_run(behind, left),
            _ => {}
        }
    }

    /// Takes letters as long as they only go on with the word under way: at most seven, and at most `have`.
    #[inline(always)]
    fn match_run(&mut self, bytes: u64, have: u32) {
        let row = self.scanner.state;
        // Small letters don't go on with a method: those are case-sensitive.
        let small = if row == state::METHOD { 0x20 } else { 0 };
        let mut bytes = bytes;
        for taken in 0..7 {
            let letter = (BYTES[bytes as u8 as usize] >> 8) as u8;
            if taken >= have || letter & 31 == 0 || bytes as u8 & small != 0 || self.scanner.state != row {
                return;
            }
            self.advance(1);
            self.match_letter(letter);
            bytes >>= 8;
        }
    }

    /// Takes digits of Content-Length: at most seven, and at most `have`.
    #[inline(always)]
    fn digit_run(&mut self, bytes: u64, have: u32) {
        let mut bytes = bytes;
        for taken in 0..7 {
            let byte = bytes as u8;
            if taken >= have || byte.wrapping_sub(b'0') > 9 || self.scanner.state != state::LENGTH {
                return;
            }
            self.advance(1);
            self.decimal_digit(byte);
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
        // At most a step's bytes above `MAX_HEAD`, which is looked at after each.
        self.scanner.head_bytes = self.scanner.head_bytes.wrapping_add(bytes as u16);
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
