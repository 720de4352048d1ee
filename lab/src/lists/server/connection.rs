//! One connection, from its first request to its end.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::http::{Answer, Head, Method, parse_head};
use super::Shared;
use super::ill::Ill;
use super::routes::{self, Body};
use crate::clock::monotonic;

mod hostile;

pub(super) use hostile::Hostility;

/// How much to read at once.
const READ: usize = 16 << 10;
/// Answers are sent when so many bytes wait, even if the client has sent more requests.
const FLUSH: usize = 64 << 10;
/// How long to wait for the rest of a request.
const REST: Duration = Duration::from_secs(60);
/// How long to go on reading behind a close of ours, so that the kernel doesn't make a reset of it.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection ended.
enum End {
    /// The client closed.
    Client,
    /// This side resets.
    Reset,
    /// This side closes.
    Server,
    /// This side closes, as the client has asked.
    Asked,
}

/// Serves a connection. Its errors end it, and nothing else.
pub(super) async fn run(stream: TcpStream, shared: Rc<Shared>) {
    let closes_by_reset = shared.config.reset_on_close;
    // Without it an answer would wait for the acknowledgement of the last one.
    let _ = stream.set_nodelay(true);
    let mut connection =
        Connection { stream, shared, input: Vec::new(), at: 0, output: Vec::new(), served: 0 };
    match connection.serve().await {
        Ok(End::Reset) => reset(&connection.stream),
        Ok(End::Server) if closes_by_reset => reset(&connection.stream),
        Ok(End::Server | End::Asked) => connection.linger().await,
        Ok(End::Client) | Err(_) => {}
    }
}

/// Closing with a linger of zero sends RST.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

struct Connection {
    stream: TcpStream,
    shared: Rc<Shared>,
    /// What was read; up to `at` it is done with.
    input: Vec<u8>,
    at: usize,
    output: Vec<u8>,
    served: u64,
}

impl Connection {
    async fn serve(&mut self) -> io::Result<End> {
        if let Some(end) = self.greet().await? {
            return Ok(end);
        }
        loop {
            match parse_head(&self.input[self.at..]) {
                Ok(Some((head, length))) => {
                    self.at += length;
                    if let Some(end) = self.request(&head).await? {
                        self.flush().await?;
                        return Ok(end);
                    }
                    if self.output.len() >= FLUSH {
                        self.flush().await?;
                    }
                }
                Ok(None) => {
                    self.flush().await?;
                    let idle = self.input.len() == self.at;
                    let patience = if idle { self.shared.config.idle } else { Some(REST) };
                    match self.read_more(patience).await {
                        Ok(true) => {}
                        Ok(false) => return Ok(End::Client),
                        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(End::Server),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => {
                    let answer = Answer::text("400 Bad Request", format!("{error}\n"));
                    answer.write_to(&mut self.output, &self.shared.config.name, None, true, false);
                    self.flush().await?;
                    return Ok(End::Server);
                }
            }
        }
    }

    /// Answers one request; says how the connection ends behind it, if it does.
    async fn request(&mut self, head: &Head) -> io::Result<Option<End>> {
        let received = monotonic();
        if let Some(answer) = routes::early(head) {
            self.write(head, &answer, true).await?;
            return Ok(Some(End::Server));
        }
        let hostility = self.shared.ill.get().hostility_to(head);
        if let Some(hostility) = hostility
            && let Some(end) = self.interrupt(hostility, head).await?
        {
            return Ok(Some(end));
        }
        let body = self.body(head).await?;
        let Some(body) = body else {
            self.write(head, &Answer::text("400 Bad Request", "a bad body\n"), true).await?;
            return Ok(Some(End::Server));
        };
        let shared = Rc::clone(&self.shared);
        if shared.ill.get().resets(head, &mut shared.dice.borrow_mut()) {
            return Ok(Some(End::Reset));
        }
        let answer = match Ill::brought_by(head) {
            Some(Ok(ill)) => {
                shared.ill.set(ill);
                Answer::text("200 OK", format!("{ill:?}\n"))
            }
            Some(Err(why)) => Answer::text("400 Bad Request", why),
            None => self.routed(head, &body),
        };
        self.pause(head).await?;
        if let Some(hostility) = hostility {
            return self.mistreat(hostility, head, &answer).await;
        }
        self.served += 1;
        let spent = shared.config.max_requests.is_some_and(|most| self.served >= most);
        let announce = !head.keep_alive || (spent && !shared.config.close_silently);
        self.write(head, &answer, announce).await?;
        if let (Some(trace), Some(id)) = (&shared.trace, &head.request_id) {
            self.flush().await?;
            trace.borrow_mut().add(id, received, monotonic())?;
        }
        Ok(match (spent, head.keep_alive) {
            (_, false) => Some(End::Asked),
            (true, true) => Some(End::Server),
            (false, true) => None,
        })
    }

    /// Reads the request's body; `None` if it is malformed or too large.
    async fn body(&mut self, head: &Head) -> io::Result<Option<Body>> {
        let (mut reader, mut body) = (head.body, Body::of(head));
        if head.expects_continue && !reader.is_done() {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            self.flush().await?;
        }
        loop {
            let mut fits = true;
            match reader.read(&self.input[self.at..], |bytes| fits &= body.take(bytes)) {
                Ok(taken) => self.at += taken,
                Err(_) => return Ok(None),
            }
            if !fits {
                return Ok(None);
            }
            if reader.is_done() {
                return Ok(Some(body));
            }
            self.flush().await?;
            if !self.read_more(Some(REST)).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes as long as the configuration and the path say.
    async fn pause(&mut self, head: &Head) -> io::Result<()> {
        let config = &self.shared.config;
        let jitter_us = u64::try_from(config.jitter.as_micros()).unwrap_or(u64::MAX - 1);
        let jitter = Duration::from_micros(self.shared.dice.borrow_mut().below(jitter_us + 1));
        let ill = self.shared.ill.get();
        let ailing = if ill.affects(head) { ill.delay } else { Duration::ZERO };
        let pause = config.delay + ailing + jitter + Duration::from_millis(routes::asked_delay_ms(head));
        if !pause.is_zero() {
            self.flush().await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// What the path answers; or what an ill server makes of it.
    fn routed(&self, head: &Head, body: &Body) -> Answer {
        let (ill, mut dice) = (self.shared.ill.get(), self.shared.dice.borrow_mut());
        ill.error(head, &mut dice).unwrap_or_else(|| {
            let mut answer = routes::answer(&self.shared.store, &self.shared.sunk, head, body);
            ill.spoil(head, &mut answer, &mut dice);
            answer
        })
    }

    async fn write(&mut self, head: &Head, answer: &Answer, close: bool) -> io::Result<()> {
        let head_only = head.method == Method::Head;
        let name = &self.shared.config.name;
        answer.write_to(&mut self.output, name, head.request_id.as_deref(), close, head_only);
        if head_only {
            return Ok(());
        }
        let mut sent = 0;
        while sent < answer.pattern {
            let piece = (answer.pattern - sent).min(FLUSH as u64);
            self.output.append(&mut routes::pattern(sent, piece as usize));
            sent += piece;
            if self.output.len() >= FLUSH {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// Reads some bytes; `false` at the end of the client's stream.
    async fn read_more(&mut self, patience: Option<Duration>) -> io::Result<bool> {
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        } else if self.at > READ {
            self.input.drain(..self.at);
            self.at = 0;
        }
        self.input.reserve(READ);
        let read = self.stream.read_buf(&mut self.input);
        let count = match patience {
            Some(patience) => {
                timeout(patience, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            }
            None => read.await,
        }?;
        Ok(count > 0)
    }

    /// Ends this side's stream, and reads what still comes for a moment.
    async fn linger(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let drain = async {
            let mut rest = [0; 4096];
            while self.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        };
        let _ = timeout(LINGER, drain).await;
    }
}
