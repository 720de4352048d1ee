//! One step of a walk: the transition table, and the short cuts that give what it would, sooner.

use super::table::{BYTES, MATCHES, NEXT, SKIPS, action, state, word};
use super::{MAX_HEAD, WINDOW_WORDS, Walk, flag, swar};

/// Words that a step skips at most.
const WORDS: u32 = 8;

/// The version as a word, and what of it follows an answer's first byte.
const VERSION: u64 = text(b"HTTP/1.1");
const VERSION_OF_ANSWER: u64 = text(b"TTP/1.1 ");
/// The rest of the commonest status line: behind the version, and behind that and a space.
const SPACE_STATUS_OK: u64 = text(b" 200 OK\r");
const STATUS_OK: u64 = text(b"200 OK\r\n");
/// The end of a line.
const CRLF: u16 = u16::from_le_bytes(*b"\r\n");

/// Eight bytes as a word.
const fn text(bytes: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*bytes)
}

/// Whether a word says `lower` (small letters and what has no case) in letters of either case.
#[inline(always)]
fn says(word: u64, lower: &[u8; 8]) -> bool {
    word | case(lower) == text(lower)
}

/// The bit of each letter that tells its case.
const fn case(lower: &[u8; 8]) -> u64 {
    let mut bits = [0; 8];
    let mut place = 0;
    while place < 8 {
        bits[place] = (lower[place] >= b'a' && lower[place] <= b'z') as u8 * 0x20;
        place += 1;
    }
    text(&bits)
}

impl Walk {
    /// Reads a little further: skips some bytes that change nothing, then reads one that may, and those after it that
    /// go with it (a line feed, letters of a word, digits of a length); behind a name its value, too.
    ///
    /// Each call that [`Walk::wants`] asks for moves `at` forward or ends the walk.
    #[inline(always)]
    pub fn step(&mut self) {
        let end = self.window_len;
        let start = self.at.wrapping_sub(self.window_at);
        if start >= end {
            return;
        }
        let mut goes_on = end - start < 8 || self.short_cut(start, end - start);
        for _ in 0..2 {
            let start = self.at.wrapping_sub(self.window_at);
            if !goes_on || start >= end {
                break;
            }
            self.skip_and_take(start, end);
            goes_on = self.scanner.state == state::VALUE || self.scanner.state == state::LENGTH;
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

    /// Takes what the transition table would come to byte by byte, of the `have` bytes (8 at least) from offset `start` of the
    /// window on. Whether there is more to do in this step.
    #[inline(always)]
    fn short_cut(&mut self, start: u32, have: u32) -> bool {
        let bytes = self.word_at(start);
        match self.scanner.state {
            state::START if bytes << 24 == text(b"GET /\0\0\0") << 24 => {
                self.begin_request(b'G', word::GET, flag::READ, 3);
            }
            state::START if bytes << 16 == text(b"POST /\0\0") << 16 => {
                self.begin_request(b'P', 0, 0, 4);
            }
            state::RESPONSE_START if bytes == VERSION => return self.status_line(start, have),
            state::LINE if bytes as u8 == b'\r' => {
                self.advance(1);
                self.scanner.state = state::HEAD_LF;
            }
            state::LINE => return self.begin_line(bytes, start, have),
            state::LENGTH_FIRST | state::OPTION_FIRST | state::CODING_FIRST => {
                self.advance(u32::from(bytes as u8 == b' '));
            }
            state::VERSION_H if bytes == VERSION => {
                let whole = have >= 10 && self.word_at(start + 8) as u16 == CRLF;
                self.advance(if whole { 10 } else { 8 });
                self.scanner.state = if whole { state::LINE } else { state::REQUEST_LINE_CR };
                return false;
            }
            state::ANSWER_T1 if bytes == VERSION_OF_ANSWER => {
                self.advance(8);
                self.scanner.state = state::STATUS_1;
                return false;
            }
            state::STATUS_1 if bytes == STATUS_OK => {
                self.advance(8);
                self.scanner.status = 200;
                self.scanner.state = state::LINE;
                return false;
            }
            _ => {}
        }
        true
    }

    /// A request that begins with a method of `letters`, a space and a slash.
    #[inline(always)]
    fn begin_request(&mut self, first: u8, candidates: u16, flags: u16, letters: u8) {
        self.advance(1);
        self.begin_message(first, 0);
        if self.opaque() {
            return;
        }
        self.advance(u32::from(letters) + 1);
        self.scanner.candidates = candidates;
        self.scanner.position = letters;
        self.scanner.flags = flags;
        self.scanner.state = state::TARGET;
    }

    /// An answer that begins with its version.
    #[inline(always)]
    fn status_line(&mut self, start: u32, have: u32) -> bool {
        let ok = have >= 17
            && self.word_at(start + 8) == SPACE_STATUS_OK
            && self.word_at(start + 16) as u8 == b'\n';
        if ok {
            self.advance(1);
            self.begin_message(b'H', 0);
            self.advance(16);
            self.scanner.status = 200;
            self.scanner.state = state::LINE;
        }
        !ok
    }

    /// A field's first bytes: the commonest that matter by words, of the others those that can't matter.
    #[inline(always)]
    fn begin_line(&mut self, bytes: u64, start: u32, have: u32) -> bool {
        if have >= 16 && says(bytes, b"content-") {
            return self.content_field(self.word_at(start + 8));
        }
        if have >= 24
            && says(bytes, b"connecti")
            && says(self.word_at(start + 8), b"on: keep")
            && says(self.word_at(start + 16), b"-alive\r\n")
        {
            self.advance(24);
            self.scanner.candidates = word::KEEP_ALIVE;
            self.scanner.position = 10;
            self.scanner.flags |= flag::KEEP_ALIVE;
            return false;
        }
        self.reject_name(bytes);
        true
    }

    /// A field whose name begins with `content-`, and goes on with `next`.
    #[inline(always)]
    fn content_field(&mut self, next: u64) -> bool {
        let letter = next as u8 | 0x20;
        if says(next, b"length: ") {
            self.advance(15);
            self.scanner.candidates = word::CONTENT_LENGTH;
            self.scanner.position = 14;
            self.scanner.state = state::VALUE;
            self.end_name();
            if self.opaque() {
                return false;
            }
            self.advance(1);
        } else if letter.is_ascii_lowercase() && letter != b'l' {
            self.advance(8);
            self.other_name();
        }
        true
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
