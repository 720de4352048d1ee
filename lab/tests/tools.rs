//! nginx and the load tools on the lab's hosts. Run with `--include-ignored`, as root.

use std::net::SocketAddr;
use std::time::Duration;

use lab::http_client::{get, post};
use lab::load::{Load, oha, wrk};
use lab::net::{Host, Lab, SERVICE_PORT};
use lab::nginx::{KeepAlive, Nginx, Role};
use lab::programs::ListsServer;
use lab::wait::wait_for;

fn start(lab: &Lab, host: Host) -> Nginx {
    Nginx::on(lab, host, host.name(), KeepAlive::default()).unwrap()
}

#[test]
#[ignore = "needs root"]
fn nginx_serves_and_wrk_counts() {
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let server = start(&lab, Host::Primary);
    let client = lab.host(Host::Client);
    assert_eq!(client.run(|| get(server.address, "/1k").unwrap()).unwrap().len(), 1024);
    assert_eq!(client.run(|| get(server.address, "/name").unwrap()).unwrap(), b"primary\n");
    let load = Load { duration: Duration::from_secs(1), ..Load::get(server.address, "/1k") };
    let result = wrk(&client, &load).unwrap();
    assert!(result.requests > 500 && result.errors == 0 && result.p50_us > 0, "{result:?}");
    let result = wrk(&client, &Load { new_connections: true, ..load.clone() }).unwrap();
    assert!(result.requests > 100 && result.errors == 0, "{result:?}");
    let result =
        wrk(&client, &Load { post: Some("x".repeat(100)), path: "/post".into(), ..load.clone() }).unwrap();
    assert!(result.requests > 500 && result.errors == 0, "{result:?}");
    let result = wrk(&client, &Load { path: "/missing".into(), ..load }).unwrap();
    assert_eq!(result.errors, result.requests, "every answer is a 404");
}

#[test]
#[ignore = "needs root and oha"]
fn oha_counts() {
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let server = start(&lab, Host::Primary);
    let load = Load { duration: Duration::from_secs(1), ..Load::get(server.address, "/1k") };
    let result = oha(&lab.host(Host::Client), &load).unwrap();
    assert!(result.requests > 500 && result.errors == 0 && result.p50_us > 0, "{result:?}");
    let result = oha(&lab.host(Host::Client), &Load { path: "/missing".into(), ..load }).unwrap();
    assert_eq!(result.errors, result.requests, "every answer is a 404");
}

#[test]
#[ignore = "needs root"]
fn nginx_mirrors_in_userspace() {
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let servers =
        [Host::Primary, Host::Shadow].map(|host| ListsServer::on(&lab, host, &["--volatile"]).unwrap());
    let [primary, shadow] = servers.each_ref().map(|server| server.address);
    let listen = SocketAddr::from((Host::Client.gateway_address(), SERVICE_PORT));
    let role = Role::Mirror { primary, shadow };
    let mirror = Nginx::start(&lab.host(Host::Gateway), listen, &role, KeepAlive::default()).unwrap();
    let client = lab.host(Host::Client);
    client.run(|| post(mirror.address, "/lists/k", b"id-1").unwrap()).unwrap();
    for server in [primary, shadow] {
        // The mirror's request isn't waited for.
        let there = || client.run(|| get(server, "/dump").unwrap()).unwrap() == b"k id-1\n";
        wait_for("the append", Duration::from_secs(5), there).unwrap();
    }
    assert!(!mirror.error_log().unwrap().contains("[error]"));
}
