//! What the parser does at the bytes that matter: words, digits, and the ends of things.

use super::table::{LAST_POSITION, LENGTHS, MATCHES, UNDERSCORE, state, word};
use super::{Class, Kind, MAX_LENGTH, MAX_REQUESTS, Scanner, UNKNOWN_LENGTH, Walk, flag, start_of};

/// Switching protocols (RFC 9110, 15.2.2): what follows is no HTTP.
const SWITCHING_PROTOCOLS: u16 = 101;
const NO_CONTENT: u16 = 204;
const NOT_MODIFIED: u16 = 304;

/// Words.
impl Walk {
    #[inline(always)]
    pub(super) fn begin_message(&mut self, byte: u8, letter: u8) {
        let begin = self.at.wrapping_sub(1);
        self.scanner = Scanner { state: self.scanner.state, head_bytes: 1, ..Scanner::OPAQUE };
        if self.is_response() {
            return;
        }
        if self.begun >= MAX_REQUESTS {
            self.lose();
            return;
        }
        if self.begun == 0 {
            self.first_begin = begin;
        }
        self.last_begin = begin;
        self.begun += 1;
        self.upgrade = (self.upgrade | self.upgrade << 1) & 2;
        // Methods are case-sensitive: one that begins with a small letter is none of those that are known.
        self.scanner.candidates = if byte & 0x20 == 0 { word::METHODS } else { 0 };
        self.match_letter(letter);
    }

    #[inline(always)]
    pub(super) fn first_letter(&mut self, letter: u8) {
        self.scanner.candidates = match self.scanner.state {
            state::NAME => word::NAMES,
            state::OPTION => word::OPTIONS,
            _ => word::CODINGS,
        };
        self.scanner.position = 0;
        self.match_letter(letter);
    }

    /// Strikes out the words that don't have this letter next; a name that can be none of them is skipped
    /// from then on.
    #[inline(always)]
    pub(super) fn match_letter(&mut self, letter: u8) {
        let position = self.scanner.position & LAST_POSITION;
        let left = self.scanner.candidates & MATCHES[position as usize][(letter & 31) as usize];
        self.scanner.candidates = left;
        self.scanner.position =
            ((self.scanner.position | letter) & UNDERSCORE) | (position + 1).min(LAST_POSITION);
        if left == 0 && self.scanner.state == state::NAME {
            self.other_name();
        }
    }

    /// The name under way is none of those that matter.
    #[inline(always)]
    pub(super) fn other_name(&mut self) {
        self.scanner.candidates = 0;
        self.scanner.position = 0;
        self.scanner.state = state::OTHER_NAME;
    }

    /// The word that ended here; 0: none of those that matter.
    #[inline(always)]
    fn word(&self) -> u16 {
        self.scanner.candidates & LENGTHS[(self.scanner.position & LAST_POSITION) as usize]
    }

    #[inline(always)]
    pub(super) fn end_method(&mut self) {
        let method = self.word();
        if method & word::CONNECT != 0 {
            self.lose();
        } else if method & word::HEAD != 0 {
            self.scanner.flags |= flag::READ | flag::HEAD;
        } else if method & word::GET != 0 {
            self.scanner.flags |= flag::READ;
        }
    }

    #[inline(always)]
    pub(super) fn end_name(&mut self) {
        let name = self.word();
        let underscored = self.scanner.position & UNDERSCORE != 0;
        if self.is_response() {
            // Upgrade in an answer is an offer; and no client takes an underscore for a hyphen.
            if underscored {
                return;
            }
        } else if underscored && name & (word::CONTENT_LENGTH | word::TRANSFER_ENCODING) != 0 {
            return self.lose();
        } else if name & word::ODD != 0 {
            self.scanner.flags |= flag::ODD;
        } else if name & word::UPGRADE != 0 {
            self.scanner.flags |= flag::UPGRADE;
        }
        if name & word::CONTENT_LENGTH != 0 {
            self.begin_length();
        } else if name & word::TRANSFER_ENCODING != 0 {
            self.begin_coding();
        } else if name & word::CONNECTION != 0 {
            self.scanner.state = state::OPTION_FIRST;
        }
    }

    /// Content-Length: once, and not beside a transfer coding (RFC 9112, 6.3).
    #[inline(always)]
    fn begin_length(&mut self) {
        if self.scanner.flags & (flag::LENGTH | flag::CODED) != 0 {
            return self.lose();
        }
        self.scanner.flags |= flag::LENGTH;
        self.scanner.state = state::LENGTH_FIRST;
    }

    /// Transfer-Encoding: once, not beside a length, not in HTTP/1.0.
    #[inline(always)]
    fn begin_coding(&mut self) {
        if self.scanner.flags & (flag::LENGTH | flag::CODED | flag::OLD) != 0 {
            return self.lose();
        }
        self.scanner.flags |= flag::CODED;
        self.scanner.state = state::CODING_FIRST;
    }

    /// `chunked` alone, and nothing beside it.
    #[inline(always)]
    pub(super) fn end_coding(&mut self) {
        if self.word() & word::CHUNKED == 0 {
            self.lose();
        }
    }

    #[inline(always)]
    pub(super) fn end_option(&mut self) {
        let option = self.word();
        if option & word::CLOSE != 0 {
            self.scanner.flags |= flag::CLOSE;
        } else if option & word::KEEP_ALIVE != 0 {
            self.scanner.flags |= flag::KEEP_ALIVE;
        }
    }

    #[inline(always)]
    fn is_response(&self) -> bool {
        self.kind() == Kind::Response
    }
}

/// Digits.
impl Walk {
    #[inline(always)]
    pub(super) fn decimal_digit(&mut self, byte: u8) {
        // Below MAX_LENGTH before, so the product fits.
        self.set_length(u64::from(self.scanner.length) * 10 + u64::from(byte & 15));
    }

    #[inline(always)]
    pub(super) fn hex_digit(&mut self, length: u32, byte: u8) {
        // Letters have bit 6 set, and their low four bits count from one.
        let digit = (byte & 15) + 9 * (byte >> 6);
        self.set_length(u64::from(length) * 16 + u64::from(digit));
    }

    #[inline(always)]
    fn set_length(&mut self, length: u64) {
        if length >= u64::from(MAX_LENGTH) {
            return self.lose();
        }
        self.scanner.length = length as u32;
    }

    #[inline(always)]
    pub(super) fn status_digit(&mut self, status: u16, byte: u8) {
        self.scanner.status = status.wrapping_mul(10).wrapping_add(u16::from(byte & 15));
        // 1xx to 5xx (RFC 9110, 15): when the first digit comes, it is the status.
        if status == 0 && byte > b'5' {
            self.lose();
        }
    }
}

/// Ends.
impl Walk {
    #[inline(always)]
    pub(super) fn end_head(&mut self) {
        if self.is_response() { self.end_answer_head() } else { self.end_request_head() }
    }

    #[inline(always)]
    fn end_request_head(&mut self) {
        let flags = self.scanner.flags;
        // A length of 0 is no body: Java's HttpClient says it with each GET (JDK-8283544).
        let plain = flags & (flag::READ | flag::ODD | flag::CODED) == flag::READ && self.scanner.length == 0;
        let class = if plain { Class::Read } else { Class::Write } as u32;
        self.completed_class = self.completed_class.max(class);
        if flags & flag::HEAD != 0 {
            self.heads |= 1 << (self.completed & 63);
        }
        self.completed += 1;
        self.close = self.closes() as u32;
        self.upgrade |= (flags & flag::UPGRADE != 0) as u32;
        if flags & flag::CODED != 0 {
            self.begin_chunks();
        } else {
            self.jump(self.scanner.length);
        }
    }

    #[inline(always)]
    fn end_answer_head(&mut self) {
        self.scanner.state = state::RESPONSE_START;
        let status = self.scanner.status;
        let has_body = self.scanner.flags & flag::CODED != 0 || self.scanner.length != 0;
        let interim = status < 200;
        if has_body && (interim || status == NO_CONTENT) {
            return self.lose();
        }
        self.statuses.add(status);
        if status == SWITCHING_PROTOCOLS {
            // The last answer that can be told apart.
            self.note_answer(status, 0);
            self.end_answer();
            return self.lose();
        }
        if interim {
            self.interim += 1;
            return;
        }
        let of_head = self.head_requests >> (self.answered & 63) & 1 != 0;
        let bodiless = of_head || status == NO_CONTENT || status == NOT_MODIFIED;
        let coded = self.scanner.flags & flag::CODED != 0;
        let length = match (bodiless, coded || self.scanner.flags & flag::LENGTH == 0) {
            (true, _) => 0,
            (false, true) => UNKNOWN_LENGTH,
            (false, false) => self.scanner.length,
        };
        self.note_answer(status, length);
        if length != UNKNOWN_LENGTH {
            self.jump(length);
            self.end_answer();
        } else if coded {
            self.begin_chunks();
        } else {
            self.close = 1;
            self.scanner.state = state::UNTIL_CLOSE;
        }
    }

    /// Counts a final answer's head.
    #[inline(always)]
    fn note_answer(&mut self, status: u16, length: u32) {
        self.behind_close |= self.close;
        if self.first_status == 0 {
            self.first_status = status;
            self.first_body = self.at;
            self.first_length = length;
        }
        self.last_status = status;
        if self.closes() {
            self.close = 1;
        }
    }

    /// Whether the head that ends here says that its message is the connection's last: HTTP/1.0's is, unless it says
    /// otherwise (RFC 9112, 9.3).
    #[inline(always)]
    fn closes(&self) -> bool {
        let flags = self.scanner.flags;
        flags & flag::CLOSE != 0 || flags & (flag::OLD | flag::KEEP_ALIVE) == flag::OLD
    }

    #[inline(always)]
    fn begin_chunks(&mut self) {
        self.scanner.state = state::CHUNK_SIZE_FIRST;
        self.scanner.head_bytes = 0;
    }

    #[inline(always)]
    pub(super) fn begin_chunk(&mut self) {
        if self.scanner.length == 0 {
            self.scanner.state = state::TRAILER;
        } else {
            self.scanner.head_bytes = 0;
            self.jump(self.scanner.length);
        }
    }

    #[inline(always)]
    pub(super) fn end_chunked(&mut self) {
        if self.is_response() {
            self.end_answer();
        }
        self.scanner.state = start_of(self.kind);
    }

    /// Counts an answer, behind whose last byte the walk is.
    #[inline(always)]
    fn end_answer(&mut self) {
        self.answered += 1;
        self.ends = [self.at, self.ends[0]];
    }

    /// Over bytes that needn't be read. Below 2^31 in all, so the sum doesn't wrap.
    #[inline(always)]
    fn jump(&mut self, length: u32) {
        self.at = self.at.wrapping_add(length);
    }
}
