//! Traffic is read where it passes by, and nobody notices.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    names::{self, Ask, NameServer},
    net::{Host, Lab, Process, SERVICE_PORT},
    programs::{ListsServer, binary},
    wait::wait_for,
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
        Self::of(lab, &[&server().to_string()], options)
    }

    fn of(lab: &Lab, services: &[&str], options: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary("mirror")?);
        command.arg("observe").args(services).args(["--json", "--for", "1h"]).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = lab.host(Host::Primary).spawn(&mut command)?;
        let mut lines = BufReader::new(process.child().stderr.take().context("no stderr")?).lines();
        for service in services {
            let said = lines.next().context("it says nothing")??;
            ensure!(said.starts_with(&format!("observing {service} ")), "{said}");
        }
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

fn server() -> SocketAddr {
    (Host::Primary.address(), SERVICE_PORT).into()
}

fn connect(lab: &Lab) -> Result<TcpStream> {
    netns_tests::connect(lab, Host::Gateway, server())
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

/// A service's IPv6 is its own: what its IPv4 gets beside it isn't counted.
#[test]
fn over_ipv6_the_same_is_said() -> Result<()> {
    let lab = lab_builder()?.six(true).up()?;
    let primary = lab.host(Host::Primary);
    // At all addresses, of either family.
    let everywhere = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), SERVICE_PORT);
    let _server = ListsServer::start(&primary, everywhere, "primary", &["--volatile"])?;
    let address = Host::Primary.address6();
    let _resolver = NameServer::start(&primary, address, 1)?;
    let at = |port| SocketAddr::new(address.into(), port);
    let services = [at(SERVICE_PORT).to_string(), format!("{}/udp", at(names::PORT))];
    let all = Observer::of(&lab, &services.each_ref().map(String::as_str), &[])?;
    let named = Observer::of(&lab, &[&services[0]], &["--device", "eth0"])?;
    let elsewhere = Observer::of(&lab, &[&services[0]], &["--device", "lo"])?;
    let mut six = netns_tests::connect(&lab, Host::Gateway, at(SERVICE_PORT))?;
    for request in [READ, WRITE, READ] {
        talk(&mut six, &[request], 1)?;
    }
    talk(&mut six, &[&[READ, READ].concat()], 2)?;
    talk(&mut connect(&lab)?, &[READ], 1)?;
    let client = lab.host(Host::Gateway).run(|| UdpSocket::bind("[::]:0"))??;
    client.connect(at(names::PORT))?;
    client.set_read_timeout(Some(SOON))?;
    for (id, becomes) in [(1, None), (2, Some(Ipv4Addr::LOCALHOST))] {
        client.send(&Ask { id, name: "a.test".into(), becomes }.bytes())?;
        client.recv(&mut [0; 512])?;
    }
    let seen = all.seen()?;
    for requests in [&seen[0], &named.seen()?] {
        ensure!(requests["shiftable"] == 2 && requests["writes"] == 1, "{requests}");
        ensure!(requests["kept"] == json!({"joined": 2}) && requests["missed"] == 0, "{requests}");
        ensure!(requests["connections"]["opened"] == 1, "{requests}");
    }
    ensure!(seen[1]["shiftable"] == 1 && seen[1]["writes"] == 1 && seen[1]["requests"] == 2, "{seen}");
    let seen = elsewhere.seen()?;
    ensure!(seen["packets"] == 0, "on a device where nothing passes: {seen}");
    Ok(())
}

#[test]
fn a_name_servers_queries_are_read_beside_a_web_servers_requests() -> Result<()> {
    let lab = lab_builder()?.up()?;
    let _server = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
    let resolver = NameServer::start(&lab.host(Host::Primary), Host::Primary.address(), 1)?;
    let at = SocketAddr::from((Host::Primary.address(), names::PORT));
    let observer = Observer::of(&lab, &[&format!("{at}/udp"), &server().to_string()], &[])?;
    let client = lab.host(Host::Gateway).run(|| UdpSocket::bind("0.0.0.0:0"))??;
    client.connect(at)?;
    client.set_read_timeout(Some(SOON))?;
    let ask = |id, becomes| client.send(&Ask { id, name: "a.test".into(), becomes }.bytes());
    for (id, becomes) in [(1, None), (2, Some(Ipv4Addr::LOCALHOST)), (3, None)] {
        ask(id, becomes)?;
        client.recv(&mut [0; 512])?;
    }
    resolver.fall_silent();
    ask(4, None)?;
    // A question that is seen again at once is taken for the same one on its way.
    let asked = Instant::now();
    wait_for("the same question to be another one", SOON, || asked.elapsed() > Duration::from_millis(10))?;
    ask(4, None)?;
    talk(&mut connect(&lab)?, &[READ], 1)?;
    let seen = observer.seen()?;
    let [queries, requests] = [&seen[0], &seen[1]];
    ensure!(queries["protocol"] == "udp" && queries["service"] == at.to_string(), "{seen}");
    ensure!(queries["shiftable"] == 3 && queries["writes"] == 1 && queries["requests"] == 5, "{seen}");
    ensure!(queries["kept"] == json!({"asked_again": 1}), "{seen}");
    ensure!(
        requests["protocol"] == "tcp" && requests["shiftable"] == 1 && requests["requests"] == 1,
        "{seen}"
    );
    Ok(())
}
