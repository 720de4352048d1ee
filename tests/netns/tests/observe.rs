//! Traffic is read where it passes by, and nobody notices.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    net::{Host, Lab, Process, SERVICE_PORT},
    programs::{ListsServer, binary},
};
use netns_tests::{SOON, lab_builder};
use rustix::process::Signal;
use serde_json::{Value, json};

const READ: &str = "GET /ping HTTP/1.1\r\nHost: shop\r\n\r\n";
const WRITE: &str = "POST /lists/a HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nid";

/// `mirror observe`, which hears already.
struct Observer(Process);

impl Observer {
    fn start(lab: &Lab, options: &[&str]) -> Result<Self> {
        let service = SocketAddr::from((Host::Primary.address(), SERVICE_PORT)).to_string();
        let mut command = Command::new(binary("mirror")?);
        command.args(["observe", &service, "--json", "--for", "1h"]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = lab.host(Host::Primary).spawn(&mut command)?;
        let mut said = String::new();
        BufReader::new(process.child().stderr.take().context("no stderr")?).read_line(&mut said)?;
        ensure!(said.starts_with("observing"), "{said}");
        Ok(Self(process))
    }

    /// Interrupts it; what it has seen.
    fn seen(mut self) -> Result<Value> {
        self.0.signal(Signal::INT)?;
        let mut text = String::new();
        self.0.child().stdout.take().context("no stdout")?.read_to_string(&mut text)?;
        ensure!(self.0.wait(SOON)?.success(), "{text}");
        Ok(serde_json::from_str(&text)?)
    }
}

fn connect(lab: &Lab) -> Result<TcpStream> {
    let server = SocketAddr::from((Host::Primary.address(), SERVICE_PORT));
    netns_tests::connect(lab, Host::Gateway, server)
}

/// Sends each piece in a segment of its own, and waits for as many answers.
fn talk(stream: &mut TcpStream, pieces: &[&str], answers: usize) -> Result<()> {
    for piece in pieces {
        stream.write_all(piece.as_bytes())?;
    }
    let (mut text, mut buffer) = (String::new(), [0; 4_096]);
    while text.matches("HTTP/1.1 200").count() < answers || text.ends_with("\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "the connection ended behind {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    Ok(())
}

#[test]
fn it_says_which_requests_could_be_shifted_and_why_the_rest_can_not() -> Result<()> {
    let lab = lab_builder()?.up()?;
    let _server = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
    let mut before = connect(&lab)?;
    let everything = Observer::start(&lab, &[])?;
    let elsewhere = Observer::start(&lab, &["--device", "lo"])?;
    let half = Observer::start(&lab, &["--sample", "2"])?;

    talk(&mut before, &[READ], 1)?;
    let mut ports = Vec::new();
    let mut open = || -> Result<TcpStream> {
        let stream = connect(&lab)?;
        ports.push(stream.local_addr()?.port());
        Ok(stream)
    };
    let mut plain = open()?;
    for request in [READ, WRITE, READ, READ] {
        talk(&mut plain, &[request], 1)?;
    }
    talk(&mut open()?, &[&[READ, READ].concat()], 2)?;
    let (head, tail) = READ.split_at(20);
    talk(&mut open()?, &[head, tail], 1)?;
    let mut greeting = open()?;
    greeting.write_all(b"\x16\x03\x01\r\n\r\n")?;
    // It is there when the server says that it isn't for it.
    greeting.read_exact(&mut [0; 1])?;
    let sampled = ports.iter().filter(|port| **port >> 1 & 1 == 0).count();

    let seen = everything.seen()?;
    ensure!(seen["shiftable"] == 3 && seen["writes"] == 1, "{seen}");
    ensure!(seen["kept"] == json!({"joined": 2, "split": 1}), "{seen}");
    ensure!(seen["requests"] == 7 && seen["missed"] == 0, "{seen}");
    let unread = json!({"before": 1, "tls": 1});
    ensure!(seen["connections"] == json!({"opened": 4, "unread": unread, "not_followed": 0}), "{seen}");
    let seen = elsewhere.seen()?;
    ensure!(seen["packets"] == 0, "on a device where nothing passes: {seen}");
    let seen = half.seen()?;
    ensure!(seen["connections"]["opened"] == sampled, "{sampled} of {ports:?}: {seen}");
    Ok(())
}
