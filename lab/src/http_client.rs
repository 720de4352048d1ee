//! One request over one connection, blocking: for hooks and proofs, not for load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long to wait for the connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// `GET path` from the server at `address`: the body.
///
/// # Errors
/// If the server can't be reached or answers with another status than 200.
pub fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    request(address, "GET", path, b"")
}

/// `PUT path` with a body: the answer's body.
///
/// # Errors
/// As [`get`].
pub fn put(address: SocketAddr, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    request(address, "PUT", path, body)
}

/// `POST path` with a body: the answer's body.
///
/// # Errors
/// As [`get`].
pub fn post(address: SocketAddr, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    request(address, "POST", path, body)
}

/// The address in `http://ADDRESS:PORT` (or without `http://`).
///
/// # Errors
/// If it is something else; names aren't looked up.
pub fn parse_url(url: &str) -> Result<SocketAddr> {
    url.strip_prefix("http://")
        .unwrap_or(url)
        .trim_end_matches('/')
        .parse()
        .with_context(|| format!("{url:?} is not like http://10.0.2.2:8080 (an address, no name)"))
}

fn request(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    let what = format!("{method} http://{address}{path}");
    exchange(address, method, path, body).with_context(|| what)
}

fn exchange(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(begin) = response.parse(&answer)? else {
        bail!("an answer without a whole head")
    };
    let said = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let said: usize = said
        .and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse().ok())
        .context("an answer without Content-Length")?;
    let body = answer.split_off(begin);
    ensure!(body.len() == said, "an answer of {} bytes was cut off after {}", said, body.len());
    let code = httparse_code(&answer).context("an answer without a status")?;
    ensure!(code == 200, "status {code}: {}", String::from_utf8_lossy(&body).trim());
    Ok(body)
}

/// The status code in the first line of an answer.
fn httparse_code(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head).ok()?.split_whitespace().nth(1)?.parse().ok()
}
