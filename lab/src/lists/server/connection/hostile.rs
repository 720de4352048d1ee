//! Ways in which a server mistreats those who ask it: `PUT /ill?hostile=endless-head`. What it is asked to write it writes.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::super::super::http::{Answer, Head};
use super::{Connection, End};

/// Between two bytes of an answer that dribbles.
const DRIBBLE: Duration = Duration::from_secs(1);
/// Between two pieces of what never ends: other processes want the processor, too.
const PIECE: Duration = Duration::from_millis(1);
/// How many interim answers come before the answer, where it comes at all.
const INTERIM: usize = 100;
/// An interim answer (RFC 8297).
const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
/// What ends in its head ends behind so many bytes.
const IN_HEAD: usize = 20;
/// What ends in its body ends behind so many bytes, ...
const IN_BODY: usize = 3_000;
/// ... of so many more than the answer has.
const PADDING: usize = 5_000;

/// What a server does instead of answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Hostility {
    /// The answer comes a byte a second.
    Dribble,
    /// Ten times as much body.
    Tenfold,
    /// A body in chunks that never ends.
    EndlessChunks,
    /// A body of a length that it never reaches.
    EndlessBody,
    /// A head that never ends.
    EndlessHead,
    /// Interim answers, and never another.
    EndlessInterim,
    /// Many interim answers before the answer.
    Interim,
    /// Bytes that are no HTTP.
    Garbage,
    /// The answer twice.
    Doubled,
    /// Fewer bytes than the head says.
    Short,
    /// More bytes than the head says.
    Long,
    /// HTTP/1.0, to the end of the connection.
    Http10,
    /// Another protocol from now on, that nobody asked for.
    Switch,
    /// Reads, and never answers.
    Silent,
    /// A refusal before the body has come, which is read all the same.
    Early,
    /// Takes connections and never reads.
    Inert,
    /// Speaks first, and ends the connection (as one that has waited for too long).
    Unasked,
    /// Ends the connection: where, and how.
    Ends(Point, By),
}

/// Where a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Point {
    /// Before a request.
    Accept,
    /// Behind a request's head.
    Request,
    /// Before the answer.
    Answer,
    /// In the answer's head.
    Head,
    /// In its body.
    Body,
    /// Behind it.
    Behind,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum By {
    Fin,
    Reset,
}

impl From<By> for End {
    fn from(by: By) -> Self {
        match by {
            By::Fin => Self::Server,
            By::Reset => Self::Reset,
        }
    }
}

impl Hostility {
    /// The one of that name.
    pub(in super::super) fn named(name: &str) -> Option<Self> {
        let (how, point) = name.split_once('-').unwrap_or((name, ""));
        let by = match how {
            "fin" => Some(By::Fin),
            "reset" => Some(By::Reset),
            _ => None,
        };
        if let Some(by) = by {
            return Point::named(point).map(|point| Self::Ends(point, by));
        }
        Some(match name {
            "dribble" => Self::Dribble,
            "tenfold" => Self::Tenfold,
            "endless-chunks" => Self::EndlessChunks,
            "endless-body" => Self::EndlessBody,
            "endless-head" => Self::EndlessHead,
            "endless-interim" => Self::EndlessInterim,
            "interim" => Self::Interim,
            "garbage" => Self::Garbage,
            "doubled" => Self::Doubled,
            "short" => Self::Short,
            "long" => Self::Long,
            "http10" => Self::Http10,
            "switch" => Self::Switch,
            "silent" => Self::Silent,
            "early" => Self::Early,
            "inert" => Self::Inert,
            "unasked" => Self::Unasked,
            _ => return None,
        })
    }
}

impl Point {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "accept" => Self::Accept,
            "request" => Self::Request,
            "answer" => Self::Answer,
            "head" => Self::Head,
            "body" => Self::Body,
            "behind" => Self::Behind,
            _ => return None,
        })
    }
}

impl Connection {
    /// What comes before any request; says how the connection ends already, if it does.
    pub(super) async fn greet(&mut self) -> io::Result<Option<End>> {
        match self.shared.ill.get().hostility {
            Some(Hostility::Inert) => std::future::pending().await,
            Some(Hostility::Unasked) => {
                let late = Answer::text("408 Request Timeout", "");
                late.write_to(&mut self.output, &self.shared.config.name, None, true, false);
                self.flush().await?;
                Ok(Some(End::Server))
            }
            Some(Hostility::Ends(Point::Accept, by)) => Ok(Some(by.into())),
            _ => Ok(None),
        }
    }

    /// What comes between a request's head and its body; says how the connection ends there, if it does.
    pub(super) async fn interrupt(&mut self, hostility: Hostility, head: &Head) -> io::Result<Option<End>> {
        match hostility {
            Hostility::Ends(Point::Request, by) => return Ok(Some(by.into())),
            Hostility::Early => {
                self.write(head, &Answer::text("413 Content Too Large", "no\n"), false).await?;
                self.flush().await?;
            }
            _ => {}
        }
        Ok(None)
    }

    /// What comes instead of the answer, or with it; says how the connection ends behind it, if it does.
    pub(super) async fn mistreat(
        &mut self,
        hostility: Hostility,
        head: &Head,
        answer: &Answer,
    ) -> io::Result<Option<End>> {
        self.flush().await?;
        match hostility {
            Hostility::Ends(point, by) => return self.end_at(point, by, head, answer).await,
            Hostility::Http10 => {
                self.output.extend_from_slice(b"HTTP/1.0 200 OK\r\n\r\n");
                self.output.extend_from_slice(&answer.body);
                self.flush().await?;
                return Ok(Some(End::Server));
            }
            Hostility::Dribble => {
                for byte in self.bytes(head, answer) {
                    self.stream.write_all(&[byte]).await?;
                    sleep(DRIBBLE).await;
                }
            }
            Hostility::EndlessChunks => {
                let piece = [&b"400\r\n"[..], &[b'q'; 0x400], b"\r\n"].concat();
                return self.forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &piece).await;
            }
            Hostility::EndlessBody => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
                return self.forever(head, &[b'q'; 8_192]).await;
            }
            Hostility::EndlessHead => {
                let field = [&b"X-Field: "[..], &[b'q'; 1_000], b"\r\n"].concat();
                return self.forever(b"HTTP/1.1 200 OK\r\n", &field).await;
            }
            Hostility::EndlessInterim => return self.forever(HINTS, HINTS).await,
            Hostility::Garbage => {
                let mut dice = self.shared.dice.borrow_mut();
                self.output.extend((0..200).map(|_| dice.below(256) as u8));
            }
            Hostility::Silent | Hostility::Early => {}
            Hostility::Switch => {
                self.output.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
            }
            Hostility::Tenfold => self.write(head, &with_body(answer, answer.body.repeat(10)), false).await?,
            Hostility::Interim => {
                self.output = HINTS.repeat(INTERIM);
                self.write(head, answer, false).await?;
            }
            Hostility::Doubled => self.output = self.bytes(head, answer).repeat(2),
            Hostility::Short => {
                let bytes = self.bytes(head, answer);
                self.output.extend_from_slice(&bytes[..bytes.len() - answer.body.len().min(1)]);
            }
            Hostility::Long => {
                self.output = self.bytes(head, answer);
                self.output.extend_from_slice(b"and more");
            }
            // They are done with before a request.
            Hostility::Inert | Hostility::Unasked => self.write(head, answer, false).await?,
        }
        self.flush().await?;
        Ok(None)
    }

    async fn end_at(
        &mut self,
        point: Point,
        by: By,
        head: &Head,
        answer: &Answer,
    ) -> io::Result<Option<End>> {
        self.output = match point {
            // The first two are done with before the answer.
            Point::Accept | Point::Request | Point::Answer => Vec::new(),
            Point::Head => self.bytes(head, answer)[..IN_HEAD].to_vec(),
            Point::Body => {
                let body = [&answer.body[..], &[b'y'; PADDING]].concat();
                self.bytes(head, &with_body(answer, body))[..IN_BODY].to_vec()
            }
            Point::Behind => self.bytes(head, answer),
        };
        self.flush().await?;
        Ok(Some(by.into()))
    }

    /// The answer as it should be.
    fn bytes(&self, head: &Head, answer: &Answer) -> Vec<u8> {
        let mut bytes = Vec::new();
        answer.write_to(&mut bytes, &self.shared.config.name, head.request_id.as_deref(), false, false);
        bytes
    }

    /// A beginning, and what follows it until the other end has gone.
    async fn forever(&mut self, beginning: &[u8], piece: &[u8]) -> io::Result<Option<End>> {
        self.stream.write_all(beginning).await?;
        loop {
            self.stream.write_all(piece).await?;
            sleep(PIECE).await;
        }
    }
}

fn with_body(answer: &Answer, body: Vec<u8>) -> Answer {
    Answer { body, ..answer.clone() }
}
