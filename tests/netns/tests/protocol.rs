//! What the application speaks reaches both servers as it was sent, and ends as it would through a bare kernel.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    net::{Host, SERVICE_PORT, VIP},
    wait::{wait_for, wait_for_some},
};
use netns_tests::{SOON, Scene};

fn connect(scene: &Scene) -> Result<TcpStream> {
    netns_tests::connect(&scene.lab, Host::Client, SocketAddr::from((VIP, SERVICE_PORT)))
}

/// Reads until the text has come.
fn read_until(stream: &mut TcpStream, ends: &str) -> Result<String> {
    let mut text = String::new();
    let mut buffer = [0; 4_096];
    while !text.contains(ends) {
        let n = stream.read(&mut buffer)?;
        ensure!(n > 0, "the connection ended behind {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    Ok(text)
}

fn append(key: &str, id: &str) -> String {
    format!("POST /lists/{key} HTTP/1.1\r\nHost: shop\r\nContent-Length: {}\r\n\r\n{id}", id.len())
}

/// Both servers have this list, as soon as the slower one has answered.
fn both_have(scene: &Scene, key: &str, ids: &[&str]) -> Result<()> {
    wait_for("the list on both sides", SOON, || {
        [Host::Primary, Host::Shadow]
            .iter()
            .all(|host| scene.lists(*host).is_ok_and(|lists| lists.get(key).is_some_and(|list| list == ids)))
    })?;
    Ok(())
}

/// T16: behind 100-continue, too.
#[test]
fn a_body_that_looks_like_a_request_is_a_body() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "100"])?;
    let body = "GET /lists/a HTTP/1.1\r\nHost: shop\r\n\r\n";
    for (key, expect) in [("plain", ""), ("continued", "Expect: 100-continue\r\n")] {
        let mut stream = connect(&scene)?;
        // Head and body in one segment.
        let request = format!(
            "POST /sink?{key} HTTP/1.1\r\nHost: shop\r\n{expect}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let answer = read_until(&mut stream, &format!("\"length\":{}", body.len()))?;
        ensure!(answer.matches("HTTP/1.1 200").count() == 1, "{answer}");
        // The connection goes on, on both legs.
        stream.write_all(append(key, "next").as_bytes())?;
        read_until(&mut stream, "HTTP/1.1 200")?;
        both_have(&scene, key, &["next"])?;
    }
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}

#[test]
fn requests_cut_anywhere_and_sent_in_one_go_are_the_same_requests() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let ids: Vec<String> = (0..6).map(|i| format!("id{i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let all: String = ids.iter().map(|id| append("cut", id)).collect();
    for (key, every) in [("cut1", 1), ("cut7", 7), ("cut1000", 1_000)] {
        let mut stream = connect(&scene)?;
        for piece in all.replace("/lists/cut", &format!("/lists/{key}")).as_bytes().chunks(every) {
            stream.write_all(piece)?;
        }
        let mut answers = String::new();
        while answers.matches("HTTP/1.1 200").count() < ids.len() {
            answers += &read_until(&mut stream, "HTTP/1.1 200")?;
        }
        both_have(&scene, key, &ids)?;
    }
    Ok(())
}

/// T11: a client that closes its half reads its answer all the same.
#[test]
fn a_half_closed_connection_is_answered() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    for (key, together) in [("alone", false), ("together", true)] {
        let mut stream = connect(&scene)?;
        if together {
            // Corked, so that the last segment of the request carries the FIN.
            rustix::net::sockopt::set_tcp_cork(&stream, true)?;
        }
        stream.write_all(append(key, "last").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{key}: {answer:?}");
        both_have(&scene, key, &["last"])?;
    }
    scene.wait_status("no flow is left", |status| status["flows"] == 0)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}

/// T12: neither slots nor connections at either server.
#[test]
fn a_client_that_resets_leaves_nothing_behind() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    for i in 0..20 {
        let mut stream = connect(&scene)?;
        stream.write_all(append("reset", &i.to_string()).as_bytes())?;
        read_until(&mut stream, "HTTP/1.1 200")?;
        // Closing with bytes unread, or a linger of zero, sends RST.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    scene.wait_status("no flow is left", |status| status["flows"] == 0 && status["open_writes"] == 0)?;
    ensure!(scene.states_equal()?, "the states differ");
    for host in [Host::Primary, Host::Shadow] {
        let left = || scene.lab.host(host).sh("ss -Htn state established '( sport = :8080 )' | wc -l");
        wait_for("no connection is left", SOON, || left().is_ok_and(|text| text.trim() == "0"))?;
    }
    Ok(())
}

/// T13: a client's port that is used again right away is a new connection, however the last one ended.
/// The server closes a connection that is idle, and the client asks all the same: it is told by a reset, as by the server's own
/// kernel, and neither side does what it asked.
#[test]
fn a_request_behind_the_servers_close_is_reset() -> Result<()> {
    let mut scene = Scene::new()?.joined()?;
    let mut stream = connect(&scene)?;
    stream.write_all(append("idle", "one").as_bytes())?;
    read_until(&mut stream, "\r\n\r\n")?;
    both_have(&scene, "idle", &["one"])?;
    scene.servers[0] = None;
    wait_for("the end", SOON, || stream.read(&mut [0; 512]).is_ok_and(|bytes| bytes == 0))?;
    stream.write_all(append("idle", "two").as_bytes())?;
    wait_for("the reset", SOON, || stream.take_error().is_ok_and(|error| error.is_some()))?;
    let status = scene.gateway.status()?;
    ensure!(status["open_writes"] == 0 && status["shadow"]["in_sync"] == true, "{status}");
    ensure!(scene.lists(Host::Shadow)?.get("idle").is_some_and(|list| list == &["one"]), "the mirror did it");
    Ok(())
}

#[test]
fn a_client_port_is_used_again() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    for (key, closes) in [("reset", false), ("closed", true)] {
        let ids: Vec<String> = (0..40).map(|i| format!("{key}{i}")).collect();
        for id in &ids {
            // The client's kernel keeps the port until its FIN is acknowledged.
            let mut stream = wait_for_some("the port is free", SOON, || {
                scene.lab.host(Host::Client).run(|| connect_from(40_000)).and_then(|stream| stream).ok()
            })?;
            let asks = if closes { "Connection: close\r\n" } else { "" };
            let request = append(key, id).replacen("Host:", &format!("{asks}Host:"), 1);
            stream.write_all(request.as_bytes())?;
            if closes {
                // The server closes first: nothing of the connection is left at the client.
                stream.read_to_string(&mut String::new())?;
            } else {
                read_until(&mut stream, "HTTP/1.1 200")?;
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
            }
        }
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        both_have(&scene, key, &ids)?;
    }
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}

/// A connection to the service from this port of the client's.
fn connect_from(port: u16) -> Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Host::Client.address(), port)))?;
    connect(&socket, &SocketAddr::from((VIP, SERVICE_PORT)))?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// T20: 30 MB each way, in super-packets where the devices make them.
#[test]
fn a_download_and_an_upload_are_whole() -> Result<()> {
    whole_each_way(&Scene::new()?.joined()?)
}

/// T19, T20: the same where the gateway completes what the hosts have left to their cards, and the receivers look at it. (Between
/// the ends of a cable that isn't one, nobody would.)
#[test]
fn checksums_that_were_left_to_a_card_are_whole_behind_the_gateway() -> Result<()> {
    let scene = Scene::new()?;
    for host in Host::ENDS {
        scene.lab.host(Host::Gateway).sh(&format!("ethtool -K {} tx off", host.gateway_device()))?;
    }
    whole_each_way(&scene.joined()?)
}

fn whole_each_way(scene: &Scene) -> Result<()> {
    let client = scene.lab.host(Host::Client);
    let url = format!("http://{VIP}:{SERVICE_PORT}");
    for path in ["/bytes/30000000", "/chunked/30000000"] {
        let through = client.sh(&format!("curl -sS --fail --max-time 60 {url}{path} | sha256sum"))?;
        let direct = scene.lab.host(Host::Gateway).sh(&format!(
            "curl -sS --fail --max-time 60 http://{}{path} | sha256sum",
            Host::Primary.service()
        ))?;
        ensure!(through == direct, "{path}: {through} {direct}");
    }
    let upload = |to: String| format!("head -c 30000000 /dev/zero | curl -sS --fail --max-time 60 -T - {to}");
    for how in ["-H 'Transfer-Encoding: chunked' -X POST", "-H Expect: -X POST"] {
        let said = client.sh(&upload(format!("{how} {url}/sink")))?;
        ensure!(said.contains("30000000"), "{how}: {said}");
    }
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}

/// T16: an upload in chunks is a write like any other, owed by both sides, and its connection's reads go on to move.
#[test]
fn behind_an_upload_in_chunks_reads_are_moved() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "100"])?;
    let mut stream = connect(&scene)?;
    stream.write_all(
        b"POST /lists/a HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n1-\r\n",
    )?;
    stream.write_all(b"1;x=y\r\n2\r\n0\r\n\r\n")?;
    let answer = read_until(&mut stream, "\r\n\r\n")?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    both_have(&scene, "a", &["1-2"])?;
    scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
    stream.write_all(b"GET /ping HTTP/1.1\r\nHost: shop\r\n\r\n")?;
    read_until(&mut stream, "\r\n\r\n")?;
    scene.wait_status("a read of the shadow's", |status| status["shadow"]["answered"][0] == 1)?;
    Ok(())
}

/// The gateway leaves alone what isn't its own.
#[test]
fn other_traffic_is_the_kernels_own() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    let client = scene.lab.host(Host::Client);
    let direct =
        client.sh(&format!("curl -sS --fail --max-time 10 http://{}/ping", Host::Primary.service()))?;
    ensure!(!direct.is_empty(), "nothing came from the server's own address");
    let refused = client.run(|| TcpStream::connect_timeout(&SocketAddr::from((VIP, 9)), SOON))?;
    let kind = refused.err().map(|error| error.kind());
    ensure!(kind == Some(std::io::ErrorKind::ConnectionRefused), "{kind:?}");
    ensure!(scene.gateway.count("NoService")? > 0, "the gateway didn't see it");
    Ok(())
}
