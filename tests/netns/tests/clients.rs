//! Clients that people use, unchanged, against the application and against nginx.

use std::process::Command;

use anyhow::{Result, ensure};
use lab::{
    gateway::{Gateway, policy},
    load::{Load, wrk},
    net::{Host, Lab, SERVICE_PORT, VIP},
    nginx::{KeepAlive, Nginx, Role},
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
    load.duration = std::time::Duration::from_secs(2);
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

/// nginx closes a connection after `keepalive_requests`, and says so in the last answer.
#[test]
fn nginx_on_both_sides() -> Result<()> {
    let lab = Lab::builder().up()?;
    // nginx's own limits.
    let limits = KeepAlive { requests: 1_000, idle_seconds: 75 };
    let start = |host: Host| {
        let role = Role::Server { name: host.name().into() };
        Nginx::start(&lab.host(host), host.service().into(), &role, limits)
    };
    let (_primary, _shadow) = (start(Host::Primary)?, start(Host::Shadow)?);
    let text = policy("", "max_requests = 1000")?;
    // What nginx serves is the same from the start.
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("join_hook")).collect();
    let gateway = Gateway::start(&lab, &text.join("\n"))?;
    gateway.ctl(&["join", "shop"])?;
    gateway.ctl(&["weight", "shop", "50"])?;
    let mut load = Load::get((VIP, SERVICE_PORT).into(), "/1k");
    load.duration = std::time::Duration::from_secs(3);
    let seen = wrk(&lab.host(Host::Client), &load)?;
    ensure!(seen.errors == 0 && seen.requests > 1_000, "{seen:?}");
    let status = gateway.status()?;
    ensure!(status["shadow"]["in_sync"] == true, "{status}");
    Ok(())
}
