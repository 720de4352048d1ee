//! Clients that people use, unchanged, against the application and against nginx.

use std::{
    net::{SocketAddrV4, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use lab::{
    gateway::{Gateway, policy_without_hook},
    load::{Load, wrk},
    net::{Host, Lab, Process, SERVICE_PORT, VIP},
    nginx::{KeepAlive, Nginx},
    wait::wait_for,
};
use netns_tests::Scene;

const REQUESTS: u32 = 300;

/// Both sides have so many ids under the key, in the same order; and nobody fell out of sync.
fn both_have(scene: &Scene, key: &str, count: usize) -> Result<()> {
    scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    let (primary, shadow) = (scene.lists(Host::Primary)?, scene.lists(Host::Shadow)?);
    ensure!(primary == shadow, "the states differ");
    let length = primary.get(key).map_or(0, Vec::len);
    ensure!(length == count, "{key} has {length} ids, not {count}");
    Ok(())
}

/// Runs a client's program while half of the reads move.
fn client_program(program: &str, flag: &str, key: &str, text: &str) -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let script = text
        .replace("HOST", &VIP.to_string())
        .replace("PORT", &SERVICE_PORT.to_string())
        .replace("COUNT", &REQUESTS.to_string());
    scene.lab.host(Host::Client).check(Command::new(program).args([flag, &script]))?;
    both_have(&scene, key, REQUESTS as usize)
}

#[test]
fn pythons_http_client() -> Result<()> {
    client_program(
        "python3",
        "-c",
        "python",
        r#"
import http.client
c = http.client.HTTPConnection("HOST", PORT, timeout=20)
for i in range(COUNT):
    c.request("POST", "/lists/python", body="p%d" % i)
    r = c.getresponse(); b = r.read()
    assert r.status == 200, (r.status, b)
    c.request("GET", "/lists/python?tail=1")
    r = c.getresponse(); b = r.read()
    assert r.status == 200 and ("p%d" % i).encode() in b, (r.status, b)
"#,
    )
}

#[test]
fn nodes_http_client() -> Result<()> {
    client_program(
        "node",
        "-e",
        "node",
        r#"
const http = require("http");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (method, path, body) => new Promise((done, fail) => {
  const r = http.request({ host: "HOST", port: PORT, agent, method, path, timeout: 20000 }, a => {
    let text = ""; a.on("data", d => text += d);
    a.on("end", () => a.statusCode == 200 ? done(text) : fail(new Error(a.statusCode + text)));
  });
  r.on("error", fail); r.on("timeout", () => fail(new Error("timeout"))); r.end(body);
});
(async () => {
  for (let i = 0; i < COUNT; i++) {
    await ask("POST", "/lists/node", "n" + i);
    const text = await ask("GET", "/lists/node?tail=1");
    if (!text.includes("n" + i)) throw new Error(text);
  }
  agent.destroy();
})().catch(e => { console.error(e); process.exit(1); });
"#,
    )
}

#[test]
fn curl_keeps_its_connection() -> Result<()> {
    client_program(
        "sh",
        "-ec",
        "curl",
        "curl -sS --fail --max-time 60 -o /dev/null -d c 'http://HOST:PORT/lists/curl?[1-COUNT]'",
    )
}

#[test]
fn wrk_with_half_of_the_reads_moved() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let mut load = Load::get((VIP, SERVICE_PORT).into(), "/ping");
    load.duration = Duration::from_secs(2);
    let read = wrk(&scene.lab.host(Host::Client), &load)?;
    ensure!(read.errors == 0 && read.requests > 1_000, "{read:?}");
    load.path = "/lists/wrk".into();
    load.post = Some("w".into());
    let written = wrk(&scene.lab.host(Host::Client), &load)?;
    ensure!(written.errors == 0 && written.requests > 1_000, "{written:?}");
    scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
    let status = scene.gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    ensure!(scene.states_equal()?, "the states differ");
    Ok(())
}

#[test]
#[ignore = "building oha takes minutes: cargo xtask soak has it"]
fn oha_with_half_of_the_reads_moved() -> Result<()> {
    let scene = Scene::new()?.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let oha = std::env::var_os("MIRROR_TEST_OHA").unwrap_or_else(|| "oha".into());
    let mut command = Command::new(oha);
    command.args(["-n", "5000", "-c", "16", "--no-tui", "--output-format", "json"]);
    command.arg(format!("http://{VIP}:{SERVICE_PORT}/ping"));
    let said = scene.lab.host(Host::Client).check(&mut command)?;
    let seen: serde_json::Value = serde_json::from_str(&said)?;
    ensure!(seen["statusCodeDistribution"]["200"] == 5_000, "{said}");
    ensure!(seen["errorDistribution"].as_object().is_some_and(|errors| errors.is_empty()), "{said}");
    let status = scene.gateway.status()?;
    let answered = |side: &str| status[side]["answered"][0].as_u64().unwrap_or(0);
    ensure!(answered("primary") > 1_000 && answered("shadow") > 1_000, "{status}");
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}

/// A server that ends a connection because its client has asked for that, and doesn't say so in its answer.
const SILENT_CLOSER: &str = r#"
import http.server, socketserver
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len("SIDE")))
        self.end_headers()
        self.wfile.write(b"SIDE")
# HTTPServer would look its own name up, where nobody answers.
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128
    daemon_threads = True
Server(("HOST", PORT), Handler).serve_forever()
"#;

/// A client that reads to the connection's end, as HTTP/1.0 ones do.
const TO_THE_END: &str = r#"
import socket, sys
for i in range(40):
    ask = [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"][i % 2]
    c = socket.create_connection(("HOST", PORT), timeout=20)
    c.sendall(ask)
    said = b""
    while part := c.recv(4096):
        said += part
    assert said.endswith(b"\r\n\r\nshadow"), said
"#;

#[test]
fn a_client_that_waits_for_the_end_that_it_asked_for() -> Result<()> {
    let lab = Lab::builder().up()?;
    let python = |host: Host, text: &str, address: SocketAddrV4| {
        let text = text.replace("HOST", &address.ip().to_string()).replace("SIDE", host.name());
        let mut command = Command::new("python3");
        command.args(["-c", &text.replace("PORT", &address.port().to_string())]);
        command
    };
    let serve = |host: Host| -> Result<Process> {
        let address = host.service();
        let server = lab.host(host).spawn(&mut python(host, SILENT_CLOSER, address))?;
        let listens = || TcpStream::connect(address).is_ok();
        lab.host(host).run(|| wait_for("the server to listen", Duration::from_secs(20), listens))??;
        Ok(server)
    };
    let (_primary, _shadow) = (serve(Host::Primary)?, serve(Host::Shadow)?);
    let gateway = Gateway::start(&lab, &policy_without_hook("", "")?)?;
    gateway.ctl(&["join", "shop"])?;
    gateway.ctl(&["weight", "shop", "100"])?;
    let vip = SocketAddrV4::new(VIP, SERVICE_PORT);
    lab.host(Host::Client).check(&mut python(Host::Client, TO_THE_END, vip))?;
    let status = gateway.status()?;
    for side in ["primary", "shadow"] {
        ensure!(status[side]["legs_lost"] == 0 && status[side]["in_sync"] == true, "{status}");
    }
    Ok(())
}

/// nginx closes a connection after `keepalive_requests`, and says so in the last answer.
#[test]
fn nginx_on_both_sides() -> Result<()> {
    let lab = Lab::builder().up()?;
    // nginx's own limits.
    let limits = KeepAlive { requests: 1_000, idle_seconds: 75 };
    let start = |host: Host| Nginx::on(&lab, host, host.name(), limits);
    let (_primary, _shadow) = (start(Host::Primary)?, start(Host::Shadow)?);
    let gateway = Gateway::start(&lab, &policy_without_hook("", "max_requests = 1000")?)?;
    gateway.ctl(&["join", "shop"])?;
    gateway.ctl(&["weight", "shop", "50"])?;
    let mut load = Load::get((VIP, SERVICE_PORT).into(), "/1k");
    load.duration = Duration::from_secs(3);
    let seen = wrk(&lab.host(Host::Client), &load)?;
    ensure!(seen.errors == 0 && seen.requests > 1_000, "{seen:?}");
    let status = gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}
