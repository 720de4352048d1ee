//! The grammar as tables: byte classes, the states' transitions, and the names that matter.
//!
//! Built at compile time. Every index is masked to the table's size, which is a power of two, so that neither
//! the compiler nor the kernel's verifier needs a bounds check.

/// Byte classes: what no state tells apart shares one.
mod class {
    pub(super) const CONTROL: u8 = 0;
    pub(super) const TAB: u8 = 1;
    pub(super) const LF: u8 = 2;
    pub(super) const CR: u8 = 3;
    pub(super) const SPACE: u8 = 4;
    /// `A`–`F` and `a`–`f`: letters, and digits of a chunk's size.
    pub(super) const HEX_UPPER: u8 = 5;
    pub(super) const HEX_LOWER: u8 = 6;
    pub(super) const UPPER: u8 = 7;
    pub(super) const LOWER: u8 = 8;
    /// The letters of `HTTP`.
    pub(super) const H: u8 = 9;
    pub(super) const T: u8 = 10;
    pub(super) const P: u8 = 11;
    pub(super) const ZERO: u8 = 12;
    pub(super) const ONE: u8 = 13;
    /// `2`–`9`.
    pub(super) const DIGIT: u8 = 14;
    pub(super) const DOT: u8 = 15;
    /// The other bytes of a token (RFC 9110, 5.6.2).
    pub(super) const TOKEN: u8 = 16;
    pub(super) const SLASH: u8 = 17;
    pub(super) const COLON: u8 = 18;
    pub(super) const COMMA: u8 = 19;
    pub(super) const SEMICOLON: u8 = 20;
    /// Visible, and part of no token.
    pub(super) const DELIMITER: u8 = 21;
    /// 0x80 and above.
    pub(super) const HIGH: u8 = 22;

    /// Small letters, by which a method is none of those that are known: methods are case-sensitive.
    pub(super) const SMALL: &[u8] = &[HEX_LOWER, LOWER];
    pub(super) const DIGITS: &[u8] = &[ZERO, ONE, DIGIT];
    pub(super) const TOKENS: &[u8] =
        &[HEX_UPPER, HEX_LOWER, UPPER, LOWER, H, T, P, ZERO, ONE, DIGIT, DOT, TOKEN];
    /// All that is visible in ASCII.
    pub(super) const VISIBLE: &[u8] = &[
        HEX_UPPER, HEX_LOWER, UPPER, LOWER, H, T, P, ZERO, ONE, DIGIT, DOT, TOKEN, SLASH, COLON, COMMA,
        SEMICOLON, DELIMITER,
    ];
}

/// Where a scanner stands: what the next byte is part of. A row of the transition table.
///
/// The order matters in [`is_head`] and [`is_boundary`].
pub(super) mod state {
    /// Before the first byte of a request; stored, of a message of either kind.
    pub(in super::super) const START: u8 = 0;
    /// Before the first byte of a response.
    pub(in super::super) const RESPONSE_START: u8 = 1;
    /// The framing is lost, for good.
    pub(in super::super) const OPAQUE: u8 = 2;
    /// In the body of an answer that ends with its connection.
    pub(in super::super) const UNTIL_CLOSE: u8 = 3;
    // Between chunks.
    pub(in super::super) const CHUNK_DATA_CR: u8 = 4;
    pub(in super::super) const CHUNK_DATA_LF: u8 = 5;
    pub(in super::super) const CHUNK_SIZE_FIRST: u8 = 6;
    pub(in super::super) const CHUNK_SIZE: u8 = 7;
    pub(in super::super) const CHUNK_EXTENSION: u8 = 8;
    pub(in super::super) const CHUNK_LF: u8 = 9;
    pub(in super::super) const TRAILER: u8 = 10;
    pub(in super::super) const TRAILER_NAME: u8 = 11;
    pub(in super::super) const TRAILER_VALUE: u8 = 12;
    pub(in super::super) const TRAILER_LF: u8 = 13;
    pub(in super::super) const TRAILER_END: u8 = 14;
    // The head; from here on `is_head`.
    pub(in super::super) const METHOD: u8 = 15;
    pub(in super::super) const TARGET_FIRST: u8 = 16;
    pub(in super::super) const TARGET: u8 = 17;
    pub(in super::super) const VERSION_H: u8 = 18;
    pub(in super::super) const VERSION_T1: u8 = 19;
    pub(in super::super) const VERSION_T2: u8 = 20;
    pub(in super::super) const VERSION_P: u8 = 21;
    pub(in super::super) const VERSION_SLASH: u8 = 22;
    pub(in super::super) const VERSION_MAJOR: u8 = 23;
    pub(in super::super) const VERSION_DOT: u8 = 24;
    pub(in super::super) const VERSION_MINOR: u8 = 25;
    pub(in super::super) const REQUEST_LINE_CR: u8 = 26;
    pub(in super::super) const LINE_LF: u8 = 27;
    pub(in super::super) const LINE: u8 = 28;
    pub(in super::super) const NAME: u8 = 29;
    /// In a name that is none of those that matter.
    pub(in super::super) const OTHER_NAME: u8 = 30;
    pub(in super::super) const VALUE: u8 = 31;
    pub(in super::super) const LENGTH_FIRST: u8 = 32;
    pub(in super::super) const LENGTH: u8 = 33;
    pub(in super::super) const VALUE_PAD: u8 = 34;
    pub(in super::super) const CODING_FIRST: u8 = 35;
    pub(in super::super) const CODING: u8 = 36;
    pub(in super::super) const OPTION_FIRST: u8 = 37;
    pub(in super::super) const OPTION: u8 = 38;
    pub(in super::super) const OPTION_PAD: u8 = 39;
    pub(in super::super) const HEAD_LF: u8 = 40;
    // A response's status line.
    pub(in super::super) const ANSWER_T1: u8 = 41;
    pub(in super::super) const ANSWER_T2: u8 = 42;
    pub(in super::super) const ANSWER_P: u8 = 43;
    pub(in super::super) const ANSWER_SLASH: u8 = 44;
    pub(in super::super) const ANSWER_MAJOR: u8 = 45;
    pub(in super::super) const ANSWER_DOT: u8 = 46;
    pub(in super::super) const ANSWER_MINOR: u8 = 47;
    pub(in super::super) const ANSWER_SPACE: u8 = 48;
    pub(in super::super) const STATUS_1: u8 = 49;
    pub(in super::super) const STATUS_2: u8 = 50;
    pub(in super::super) const STATUS_3: u8 = 51;
    pub(in super::super) const STATUS_SPACE: u8 = 52;
}

/// Whether `at` is a state within a head (its first byte seen, its last one not).
pub(super) const fn is_head(at: u8) -> bool {
    at >= state::METHOD
}

/// Whether `at` is a state that is never left.
pub(super) const fn is_final(at: u8) -> bool {
    at == state::OPAQUE || at == state::UNTIL_CLOSE
}

/// Whether `at` is a state between two messages.
pub(super) const fn is_boundary(at: u8) -> bool {
    at <= state::RESPONSE_START
}

/// What a transition does besides moving on; the high byte of its entry.
pub(super) mod action {
    pub(in super::super) const NONE: u8 = 0;
    /// The first byte of a message.
    pub(in super::super) const BEGIN: u8 = 1;
    /// The first byte of a word that may be one of [`super::word`].
    pub(in super::super) const FIRST: u8 = 2;
    /// A further byte of such a word.
    pub(in super::super) const MATCH: u8 = 3;
    /// A byte by which it can't be any of them.
    pub(in super::super) const NO_MATCH: u8 = 4;
    /// The space behind the method.
    pub(in super::super) const METHOD_END: u8 = 5;
    /// A target that is not of a plain read.
    pub(in super::super) const ODD: u8 = 6;
    /// HTTP/1.0.
    pub(in super::super) const OLD: u8 = 7;
    /// The colon behind a name.
    pub(in super::super) const NAME_END: u8 = 8;
    /// A digit of Content-Length.
    pub(in super::super) const DECIMAL: u8 = 9;
    /// A digit of a chunk's size, the first one and others.
    pub(in super::super) const HEX_FIRST: u8 = 10;
    pub(in super::super) const HEX: u8 = 11;
    /// A digit of the status, the first one and others.
    pub(in super::super) const STATUS_FIRST: u8 = 12;
    pub(in super::super) const STATUS: u8 = 13;
    /// The byte behind a connection option.
    pub(in super::super) const OPTION_END: u8 = 14;
    /// The byte behind a transfer coding.
    pub(in super::super) const CODING_END: u8 = 15;
    /// The line feed that ends a head.
    pub(in super::super) const HEAD_END: u8 = 16;
    /// The line feed behind a chunk's size.
    pub(in super::super) const CHUNK_BEGIN: u8 = 17;
    /// The line feed that ends a chunked body.
    pub(in super::super) const CHUNKED_END: u8 = 18;
}

/// Words that matter, a bit each: methods (case-sensitive), names, and values (neither is).
pub(super) mod word {
    pub(in super::super) const CONTENT_LENGTH: u16 = 1 << 0;
    pub(in super::super) const TRANSFER_ENCODING: u16 = 1 << 1;
    pub(in super::super) const UPGRADE: u16 = 1 << 2;
    pub(in super::super) const CONNECTION: u16 = 1 << 3;
    pub(in super::super) const X_HTTP_METHOD: u16 = 1 << 4;
    pub(in super::super) const X_HTTP_METHOD_OVERRIDE: u16 = 1 << 5;
    pub(in super::super) const X_METHOD_OVERRIDE: u16 = 1 << 6;
    pub(in super::super) const EXPECT: u16 = 1 << 7;
    pub(in super::super) const GET: u16 = 1 << 8;
    pub(in super::super) const HEAD: u16 = 1 << 9;
    pub(in super::super) const CONNECT: u16 = 1 << 10;
    pub(in super::super) const CHUNKED: u16 = 1 << 11;
    pub(in super::super) const CLOSE: u16 = 1 << 12;
    pub(in super::super) const KEEP_ALIVE: u16 = 1 << 13;

    /// Names by which a GET or HEAD is no plain read.
    pub(in super::super) const ODD: u16 = X_HTTP_METHOD | X_HTTP_METHOD_OVERRIDE | X_METHOD_OVERRIDE | EXPECT;
    /// What may stand where a word begins.
    pub(in super::super) const METHODS: u16 = GET | HEAD | CONNECT;
    pub(in super::super) const NAMES: u16 = 0xff;
    pub(in super::super) const OPTIONS: u16 = CLOSE | KEEP_ALIVE;
    pub(in super::super) const CODINGS: u16 = CHUNKED;
}

/// The words, by bit number.
const WORDS: [&[u8]; 14] = [
    b"content-length",
    b"transfer-encoding",
    b"upgrade",
    b"connection",
    b"x-http-method",
    b"x-http-method-override",
    b"x-method-override",
    b"expect",
    b"get",
    b"head",
    b"connect",
    b"chunked",
    b"close",
    b"keep-alive",
];

/// The longest position that is told apart in a word; no word is as long.
pub(super) const LAST_POSITION: u8 = 31;
/// Set in a letter's code, and then in the scanner's position, for an underscore. Gateway interfaces (CGI,
/// WSGI) make `-` and `_` one, so a name is matched with either, and trusted with one.
pub(super) const UNDERSCORE: u8 = 0x80;

/// The letter's number within [`MATCHES`]: the same for both cases, 0 for a byte in no word.
const fn letter(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' => byte - b'A' + 1,
        b'a'..=b'z' => byte - b'a' + 1,
        b'-' => 27,
        b'_' => 27 | UNDERSCORE,
        _ => 0,
    }
}

const fn class_of(byte: u8) -> u8 {
    match byte {
        b'\t' => class::TAB,
        b'\n' => class::LF,
        b'\r' => class::CR,
        0..=0x1f | 0x7f => class::CONTROL,
        b' ' => class::SPACE,
        b'H' => class::H,
        b'T' => class::T,
        b'P' => class::P,
        b'A'..=b'F' => class::HEX_UPPER,
        b'a'..=b'f' => class::HEX_LOWER,
        b'G' | b'I'..=b'O' | b'Q'..=b'S' | b'U'..=b'Z' => class::UPPER,
        b'g'..=b'z' => class::LOWER,
        b'0' => class::ZERO,
        b'1' => class::ONE,
        b'2'..=b'9' => class::DIGIT,
        b'.' => class::DOT,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'^' | b'_' | b'`' | b'|' | b'~' => class::TOKEN,
        b'/' => class::SLASH,
        b':' => class::COLON,
        b',' => class::COMMA,
        b';' => class::SEMICOLON,
        0x80..=0xff => class::HIGH,
        _ => class::DELIMITER,
    }
}

/// For each byte its class (low byte) and its letter (high byte).
pub(super) static BYTES: [u16; 256] = bytes();

const fn bytes() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = class_of(byte as u8) as u16 | (letter(byte as u8) as u16) << 8;
        byte += 1;
    }
    table
}

/// By position and letter: the words that have this letter there.
pub(super) static MATCHES: [[u16; 32]; 32] = matches();
/// By length: the words that are as long.
pub(super) static LENGTHS: [u16; 32] = lengths();

const fn matches() -> [[u16; 32]; 32] {
    let mut table = [[0; 32]; 32];
    let mut bit = 0;
    while bit < WORDS.len() {
        let mut position = 0;
        while position < WORDS[bit].len() {
            table[position][letter(WORDS[bit][position]) as usize] |= 1 << bit;
            position += 1;
        }
        bit += 1;
    }
    table
}

const fn lengths() -> [u16; 32] {
    let mut table = [0; 32];
    let mut bit = 0;
    while bit < WORDS.len() {
        assert!(WORDS[bit].len() < LAST_POSITION as usize);
        table[WORDS[bit].len()] |= 1 << bit;
        bit += 1;
    }
    table
}

/// How bytes that change nothing are skipped in a state.
pub(super) mod skip {
    /// Not at all.
    pub(in super::super) const NOTHING: u8 = 0;
    /// Up to a control byte: field values, reasons, chunk extensions.
    pub(in super::super) const TEXT: u8 = 1;
    /// Up to anything that is not visible ASCII: targets.
    pub(in super::super) const VISIBLE: u8 = 2;
    /// Up to anything that is neither a letter nor a hyphen: names.
    pub(in super::super) const NAME: u8 = 3;
}

/// By state: how it skips.
pub(super) static SKIPS: [u8; 64] = skips();

const fn skips() -> [u8; 64] {
    let mut table = [skip::NOTHING; 64];
    table[state::VALUE as usize] = skip::TEXT;
    table[state::TRAILER_VALUE as usize] = skip::TEXT;
    table[state::CHUNK_EXTENSION as usize] = skip::TEXT;
    table[state::TARGET as usize] = skip::VISIBLE;
    table[state::OTHER_NAME as usize] = skip::NAME;
    table[state::TRAILER_NAME as usize] = skip::NAME;
    table
}

/// By state and byte class: the next state (low byte) and the action (high byte).
pub(super) static NEXT: [[u16; 32]; 64] = Grammar::new().table;

/// The transition table while it is written down.
struct Grammar {
    table: [[u16; 32]; 64],
}

impl Grammar {
    /// From state `from`, a byte of one of `classes` leads to `to` and does `action`.
    const fn on(mut self, from: u8, classes: &[u8], to: u8, action: u8) -> Self {
        let mut i = 0;
        while i < classes.len() {
            self.table[from as usize][classes[i] as usize] = to as u16 | (action as u16) << 8;
            i += 1;
        }
        self
    }

    /// The grammar of RFC 9112 without its lenient parts. What isn't said here leads to `OPAQUE`.
    const fn new() -> Self {
        Self { table: [[state::OPAQUE as u16; 32]; 64] }
            .request_line()
            .status_line()
            .fields()
            .field_values()
            .chunks()
            .trailers()
    }

    const fn request_line(self) -> Self {
        use {action::*, class::*, state::*};
        self.on(START, TOKENS, METHOD, BEGIN)
            .on(METHOD, TOKENS, METHOD, MATCH)
            .on(METHOD, SMALL, METHOD, NO_MATCH)
            .on(METHOD, &[SPACE], TARGET_FIRST, METHOD_END)
            // Absolute form, authority form and `*`: framed, but never a read.
            .on(TARGET_FIRST, VISIBLE, TARGET, ODD)
            .on(TARGET_FIRST, &[SLASH], TARGET, NONE)
            .on(TARGET, VISIBLE, TARGET, NONE)
            .on(TARGET, &[HIGH], TARGET, ODD)
            .on(TARGET, &[SPACE], VERSION_H, NONE)
            .on(VERSION_H, &[H], VERSION_T1, NONE)
            .on(VERSION_T1, &[T], VERSION_T2, NONE)
            .on(VERSION_T2, &[T], VERSION_P, NONE)
            .on(VERSION_P, &[P], VERSION_SLASH, NONE)
            .on(VERSION_SLASH, &[SLASH], VERSION_MAJOR, NONE)
            .on(VERSION_MAJOR, &[ONE], VERSION_DOT, NONE)
            .on(VERSION_DOT, &[DOT], VERSION_MINOR, NONE)
            .on(VERSION_MINOR, &[ZERO], REQUEST_LINE_CR, OLD)
            .on(VERSION_MINOR, &[ONE], REQUEST_LINE_CR, NONE)
            .on(REQUEST_LINE_CR, &[CR], LINE_LF, NONE)
    }

    const fn status_line(self) -> Self {
        use {action::*, class::*, state::*};
        self.on(RESPONSE_START, &[H], ANSWER_T1, BEGIN)
            .on(ANSWER_T1, &[T], ANSWER_T2, NONE)
            .on(ANSWER_T2, &[T], ANSWER_P, NONE)
            .on(ANSWER_P, &[P], ANSWER_SLASH, NONE)
            .on(ANSWER_SLASH, &[SLASH], ANSWER_MAJOR, NONE)
            .on(ANSWER_MAJOR, &[ONE], ANSWER_DOT, NONE)
            .on(ANSWER_DOT, &[DOT], ANSWER_MINOR, NONE)
            .on(ANSWER_MINOR, &[ZERO], ANSWER_SPACE, OLD)
            .on(ANSWER_MINOR, &[ONE], ANSWER_SPACE, NONE)
            .on(ANSWER_SPACE, &[SPACE], STATUS_1, NONE)
            .on(STATUS_1, &[ONE, DIGIT], STATUS_2, STATUS_FIRST)
            .on(STATUS_2, DIGITS, STATUS_3, STATUS)
            .on(STATUS_3, DIGITS, STATUS_SPACE, STATUS)
            // The reason is skipped like a value; some servers leave it out, the space too.
            .on(STATUS_SPACE, &[SPACE], VALUE, NONE)
            .on(STATUS_SPACE, &[CR], LINE_LF, NONE)
    }

    const fn fields(self) -> Self {
        use {action::*, class::*, state::*};
        self.on(LINE_LF, &[LF], LINE, NONE)
            .on(LINE, TOKENS, NAME, FIRST)
            .on(LINE, &[CR], HEAD_LF, NONE)
            .on(HEAD_LF, &[LF], START, HEAD_END)
            .on(NAME, TOKENS, NAME, MATCH)
            .on(NAME, &[COLON], VALUE, NAME_END)
            .on(OTHER_NAME, TOKENS, OTHER_NAME, NONE)
            .on(OTHER_NAME, &[COLON], VALUE, NONE)
    }

    const fn field_values(self) -> Self {
        use {action::*, class::*, state::*};
        self.on(VALUE, VISIBLE, VALUE, NONE)
            .on(VALUE, &[SPACE, TAB, HIGH], VALUE, NONE)
            .on(VALUE, &[CR], LINE_LF, NONE)
            // Content-Length: one number. A tab is white space to some servers only.
            .on(LENGTH_FIRST, &[SPACE], LENGTH_FIRST, NONE)
            .on(LENGTH_FIRST, DIGITS, LENGTH, DECIMAL)
            .on(LENGTH, DIGITS, LENGTH, DECIMAL)
            .on(LENGTH, &[SPACE], VALUE_PAD, NONE)
            .on(LENGTH, &[CR], LINE_LF, NONE)
            .on(VALUE_PAD, &[SPACE], VALUE_PAD, NONE)
            .on(VALUE_PAD, &[CR], LINE_LF, NONE)
            // Transfer-Encoding: one coding.
            .on(CODING_FIRST, &[SPACE], CODING_FIRST, NONE)
            .on(CODING_FIRST, TOKENS, CODING, FIRST)
            .on(CODING, TOKENS, CODING, MATCH)
            .on(CODING, &[SPACE], VALUE_PAD, CODING_END)
            .on(CODING, &[CR], LINE_LF, CODING_END)
            // Connection: a list.
            .on(OPTION_FIRST, VISIBLE, OPTION, NO_MATCH)
            .on(OPTION_FIRST, &[HIGH], OPTION, NO_MATCH)
            .on(OPTION_FIRST, TOKENS, OPTION, FIRST)
            .on(OPTION_FIRST, &[SPACE, TAB, COMMA], OPTION_FIRST, NONE)
            .on(OPTION_FIRST, &[CR], LINE_LF, NONE)
            .on(OPTION, VISIBLE, OPTION, NO_MATCH)
            .on(OPTION, &[HIGH], OPTION, NO_MATCH)
            .on(OPTION, TOKENS, OPTION, MATCH)
            .on(OPTION, &[COMMA], OPTION_FIRST, OPTION_END)
            .on(OPTION, &[SPACE, TAB], OPTION_PAD, OPTION_END)
            .on(OPTION, &[CR], LINE_LF, OPTION_END)
            .on(OPTION_PAD, VISIBLE, OPTION, NO_MATCH)
            .on(OPTION_PAD, &[HIGH], OPTION, NO_MATCH)
            .on(OPTION_PAD, &[SPACE, TAB], OPTION_PAD, NONE)
            .on(OPTION_PAD, &[COMMA], OPTION_FIRST, NONE)
            .on(OPTION_PAD, &[CR], LINE_LF, NONE)
    }

    const fn chunks(self) -> Self {
        use {action::*, class::*, state::*};
        self.on(CHUNK_SIZE_FIRST, DIGITS, CHUNK_SIZE, HEX_FIRST)
            .on(CHUNK_SIZE_FIRST, &[HEX_UPPER, HEX_LOWER], CHUNK_SIZE, HEX_FIRST)
            .on(CHUNK_SIZE, DIGITS, CHUNK_SIZE, HEX)
            .on(CHUNK_SIZE, &[HEX_UPPER, HEX_LOWER], CHUNK_SIZE, HEX)
            .on(CHUNK_SIZE, &[SEMICOLON], CHUNK_EXTENSION, NONE)
            .on(CHUNK_SIZE, &[CR], CHUNK_LF, NONE)
            .on(CHUNK_EXTENSION, VISIBLE, CHUNK_EXTENSION, NONE)
            .on(CHUNK_EXTENSION, &[SPACE, TAB, HIGH], CHUNK_EXTENSION, NONE)
            .on(CHUNK_EXTENSION, &[CR], CHUNK_LF, NONE)
            .on(CHUNK_LF, &[LF], CHUNK_DATA_CR, CHUNK_BEGIN)
            .on(CHUNK_DATA_CR, &[CR], CHUNK_DATA_LF, NONE)
            .on(CHUNK_DATA_LF, &[LF], CHUNK_SIZE_FIRST, NONE)
    }

    const fn trailers(self) -> Self {
        use {action::*, class::*, state::*};
        self.on(TRAILER, TOKENS, TRAILER_NAME, NONE)
            .on(TRAILER, &[CR], TRAILER_END, NONE)
            .on(TRAILER_NAME, TOKENS, TRAILER_NAME, NONE)
            .on(TRAILER_NAME, &[COLON], TRAILER_VALUE, NONE)
            .on(TRAILER_VALUE, VISIBLE, TRAILER_VALUE, NONE)
            .on(TRAILER_VALUE, &[SPACE, TAB, HIGH], TRAILER_VALUE, NONE)
            .on(TRAILER_VALUE, &[CR], TRAILER_LF, NONE)
            .on(TRAILER_LF, &[LF], TRAILER, NONE)
            .on(TRAILER_END, &[LF], RESPONSE_START, CHUNKED_END)
    }
}
