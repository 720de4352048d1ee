//! Answers that come in one packet with the end of an earlier one, which nobody hears.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{
    gateway::{Gateway, policy_without_hook},
    net::{Host, SERVICE_PORT, VIP},
    nginx::{KeepAlive, Nginx, text},
};
use netns_tests::{SOON, hook, lab_builder};

/// Connections at once: more than these servers can answer as they ask.
const CONNECTIONS: usize = 30;
/// Requests of each, one after the other.
const REQUESTS: usize = 300;

/// Asks for short answers and long ones over one connection, and looks at every byte of them.
fn ask(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let bodies = [("/1k", text(1 << 10)), ("/100k", text(100 << 10))];
    for n in 0..REQUESTS {
        let (path, expected) = &bodies[n % 2];
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        answers.read_line(&mut line).with_context(|| format!("answer {n}"))?;
        ensure!(line.starts_with("HTTP/1.1 200 "), "answer {n} begins with {line:?}");
        while line != "\r\n" {
            line.clear();
            ensure!(answers.read_line(&mut line)? > 0, "answer {n} ends in its head");
        }
        let mut body = vec![0; expected.len()];
        answers.read_exact(&mut body).with_context(|| format!("body {n}"))?;
        ensure!(body == expected.as_bytes(), "body {n} is another one");
    }
    Ok(())
}

/// A server that is behind sends the end of what the other one has answered and the answer that is asked of it as one packet. One
/// segment of what was the client's was shown, and the rest a round trip later, when it had come again.
#[test]
fn a_long_answer_behind_an_unheard_one_goes_on_as_it_came() -> Result<()> {
    let lab = lab_builder()?.up()?;
    let start = |host: Host| Nginx::on(&lab, host, "nginx", KeepAlive::default());
    let _servers = [start(Host::Primary)?, start(Host::Shadow)?];
    let made = policy_without_hook(&format!("hook = \"{}\"\nstall = \"10s\"", hook()?), "")?;
    let gateway = Gateway::start(&lab, &made)?;
    gateway.ctl(&["join", "shop"])?;
    gateway.ctl(&["weight", "shop", "50"])?;
    let to = SocketAddr::from((VIP, SERVICE_PORT));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let client = lab.host(Host::Client);
            thread::spawn(move || client.run(|| ask(to))?)
        })
        .collect();
    for client in clients {
        client.join().map_err(|_| anyhow!("a client panicked"))??;
    }
    let tails = gateway.count("TailForwarded")?;
    let again = [Host::Primary, Host::Shadow].map(|host| lab.host(host).tcp_counter("TCPFastRetrans"));
    let again = again.into_iter().sum::<Result<u64>>()?;
    println!("{tails} answers came behind earlier ones; {again} segments were sent again");
    ensure!(tails > 100, "{tails} answers alone came with earlier ones");
    // A host that cuts into segments itself sends bursts of them, of which a device's ring may lose some.
    let whole = hook()? == "tc";
    ensure!(
        !whole || again * 8 <= tails,
        "{again} segments were sent again, for {tails} answers behind earlier ones"
    );
    Ok(())
}
