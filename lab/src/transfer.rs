//! One large body over one connection, timed and checked: up to a server's `/sink`, or down from its `/bytes`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::net::sockopt::set_socket_linger;

use crate::tcp_info::acknowledged;

/// Longest time for the handshake.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often somebody who waits looks at the clock.
const LOOK: Duration = Duration::from_millis(100);
/// Byte number i of a body is i modulo this ([`crate::lists`]' pattern).
const PERIOD: usize = 251;
/// Bytes that are written at once, at most: whole periods.
const PIECE: usize = 256 * PERIOD;

/// How far a transfer has got. Its connection is open until this is dropped, and then reset: nothing of it is left on the way.
#[derive(Debug)]
pub struct Transfer {
    /// Bytes of the body that have come and were right, or, on the way up, that were acknowledged.
    pub bytes: u64,
    /// Since the request's first byte.
    pub elapsed: Duration,
    /// What the server said of the body that it got; empty if it has said nothing in time, or on the way down.
    pub said: String,
    /// The whole body has come.
    pub whole: bool,
    stream: TcpStream,
}

impl Transfer {
    /// Megabits of the body a second.
    pub fn mbits(&self) -> f64 {
        self.bytes as f64 * 8e-6 / self.elapsed.as_secs_f64()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Without it the connection closes as others do, which is slower and no harm.
        let _ = set_socket_linger(&self.stream, Some(Duration::ZERO));
    }
}

/// Sends a body of so many bytes from the network namespace that the calling thread is in, for as long as `limit` at most.
///
/// # Errors
/// If the connection breaks, or the server has got another body.
pub fn upload(target: SocketAddr, bytes: u64, limit: Duration) -> Result<Transfer> {
    let mut stream = connect(target)?;
    let head = format!("POST /sink HTTP/1.1\r\nHost: lists\r\nContent-Length: {bytes}\r\n\r\n");
    let piece = piece();
    let mut digest = crc32fast::Hasher::new();
    let began = Instant::now();
    stream.write_all(head.as_bytes()).context("send the head")?;
    let (mut sent, mut said) = (0, Vec::new());
    while began.elapsed() < limit && !said.ends_with(b"}\n") {
        if sent < bytes {
            let at = (sent % PIECE as u64) as usize;
            let rest = &piece[at..][..(PIECE - at).min((bytes - sent).min(PIECE as u64) as usize)];
            let count = if_ready(stream.write(rest)).context("send the body")?.unwrap_or(0);
            digest.update(&rest[..count]);
            sent += count as u64;
        } else {
            let mut buffer = [0; 4096];
            if let Some(count) = if_ready(stream.read(&mut buffer)).context("receive the answer")? {
                ensure!(count > 0, "closed before the answer");
                said.extend_from_slice(&buffer[..count]);
            }
        }
    }
    let elapsed = began.elapsed();
    let said = String::from_utf8_lossy(&said).into_owned();
    let Some((status, body)) = said.split_once("\r\n\r\n").filter(|_| said.ends_with("}\n")) else {
        let acknowledged = acknowledged(&stream).context("ask how much was acknowledged")?;
        let bytes = acknowledged.saturating_sub(head.len() as u64).min(bytes);
        return Ok(Transfer { bytes, elapsed, said: String::new(), whole: false, stream });
    };
    let mine = format!("{{\"length\":{bytes},\"crc32\":\"{:08x}\"}}\n", digest.finalize());
    ensure!(
        status.starts_with("HTTP/1.1 200 ") && body == mine,
        "sent {mine:?}, and the server says {said:?}"
    );
    Ok(Transfer { bytes, elapsed, said: mine, whole: true, stream })
}

/// Receives a body of so many bytes, as [`upload`] sends one, and compares each with the pattern.
///
/// # Errors
/// If the connection breaks, or another body comes.
pub fn download(target: SocketAddr, bytes: u64, limit: Duration) -> Result<Transfer> {
    let mut stream = connect(target)?;
    let piece = piece();
    let mut buffer = vec![0; 1 << 18];
    let began = Instant::now();
    stream
        .write_all(format!("GET /bytes/{bytes} HTTP/1.1\r\nHost: lists\r\n\r\n").as_bytes())
        .context("send the request")?;
    let (mut head, mut come) = (Vec::new(), None);
    while began.elapsed() < limit && come.is_none_or(|come| come < bytes) {
        let Some(count) = if_ready(stream.read(&mut buffer)).context("receive the body")? else { continue };
        ensure!(count > 0, "closed behind {come:?} bytes of the body");
        if let Some(come) = &mut come {
            check(&piece, come, &buffer[..count])?;
            continue;
        }
        head.extend_from_slice(&buffer[..count]);
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            ensure!(head.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&head[..end]));
            check(&piece, come.insert(0), &head[end + 4..])?;
        }
    }
    let come = come.unwrap_or(0);
    ensure!(come <= bytes, "{come} bytes came of {bytes}");
    Ok(Transfer { bytes: come, elapsed: began.elapsed(), said: String::new(), whole: come == bytes, stream })
}

/// A connection whose reads and writes return at times.
fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&target, PATIENCE).with_context(|| format!("connect to {target}"))?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(LOOK))?;
    Ok(stream)
}

/// Nothing, where there was nothing to be had yet.
fn if_ready(result: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        other => other.map(Some),
    }
}

fn piece() -> Vec<u8> {
    (0..PIECE).map(|at| (at % PERIOD) as u8).collect()
}

/// Compares what came behind the first `come` bytes with the pattern, and counts it.
fn check(piece: &[u8], come: &mut u64, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let at = (*come % PIECE as u64) as usize;
        let (now, rest) = bytes.split_at(bytes.len().min(PIECE - at));
        if now != &piece[at..][..now.len()] {
            bail!("another byte than was sent, among those from {come} on");
        }
        *come += now.len() as u64;
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::{ServerConfig, serve};

    /// A server of the lists on this machine.
    fn server() -> SocketAddr {
        let (says, heard) = std::sync::mpsc::channel();
        let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), "lists");
        std::thread::spawn(move || serve(config, |address| says.send(address).unwrap()));
        heard.recv().unwrap()
    }

    #[test]
    fn a_body_is_whole_both_ways_and_the_server_knows_its_digest() {
        let (target, limit) = (server(), Duration::from_secs(60));
        let bytes = 3 * PIECE as u64 + 17;
        let up = upload(target, bytes, limit).unwrap();
        assert!(up.whole && up.bytes == bytes && up.mbits() > 0.0);
        assert_eq!(crate::http_client::get(target, "/sink").unwrap(), up.said.as_bytes());
        let down = download(target, bytes, limit).unwrap();
        assert!(down.whole && down.bytes == bytes);
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let mut come = PIECE as u64 - 2;
        check(&piece(), &mut come, &[249, 250, 0, 1]).unwrap();
        assert_eq!(come, PIECE as u64 + 2);
        assert!(check(&piece(), &mut come, &[2, 4]).is_err());
    }
}
