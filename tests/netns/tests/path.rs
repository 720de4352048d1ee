//! What routers say of a flow's packets (ICMP errors), on real stacks: a server behind a router with a smaller MTU, or without a
//! way on.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, policy},
    net::{Host, Lab, Namespace, SERVICE_PORT, VIP},
    programs::ListsServer,
};
use netns_tests::{SOON, Scene, hook, lab_builder, tour};

/// The server's address behind the router, and the router's on that side.
const ADDRESS: [u8; 4] = [10, 9, 9, 2];
const ROUTER: &str = "10.9.9.1";

/// A namespace behind a host of the lab, which is its router; dropped, it is removed.
struct Behind(Namespace);

impl Behind {
    fn new(lab: &Lab, router: Host, mtu: u32) -> Result<Self> {
        let name = format!("{}-behind", lab.name());
        let made = Command::new("ip").args(["netns", "add", &name]).output()?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let behind = Self(Namespace::named(&name));
        let host = lab.host(router);
        host.sysctl("ipv4/ip_forward", "1")?;
        host.sh(&format!(
            "ip link add behind mtu {mtu} type veth peer name eth0 netns {name}
             ip addr add {ROUTER}/24 dev behind; ip link set behind up"
        ))?;
        let address = SocketAddr::from((ADDRESS, SERVICE_PORT)).ip();
        behind.0.sh(&format!(
            "ip addr add {address}/24 dev eth0; ip link set eth0 up; ip link set lo up
             ip route add default via {ROUTER}"
        ))?;
        lab.host(Host::Gateway).sh(&format!("ip route add {address} via {}", router.address()))?;
        Ok(behind)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // The lab that it belongs to says what is left.
        let _ = Command::new("ip").args(["netns", "del", self.0.name()]).output();
    }
}

/// A scene in which one side's server lies behind a router.
fn scene(router: Host, mtu: u32) -> Result<(Scene, Behind)> {
    let lab = lab_builder()?.up()?;
    let behind = Behind::new(&lab, router, mtu)?;
    let address = SocketAddr::from((ADDRESS, SERVICE_PORT));
    let far = ListsServer::start(&behind.0, address, router.name(), &["--volatile"])?;
    let near = if router == Host::Primary { Host::Shadow } else { Host::Primary };
    let near_one = ListsServer::on(&lab, near, &["--volatile"])?;
    let servers = if router == Host::Primary { [far, near_one] } else { [near_one, far] };
    let text = policy(&format!("hook = \"{}\"", hook()?), "")?
        .replace(&format!("\"{}\"", router.service()), &format!("\"{address}\""));
    let gateway = Gateway::start(&lab, &text)?;
    Ok((Scene { gateway, servers: servers.map(Some), lab }, behind))
}

/// T8, T22: the client lowers its segments, and the leg lives.
#[test]
fn what_is_too_large_for_the_way_to_the_shadow_is_sent_smaller() -> Result<()> {
    let (scene, _behind) = scene(Host::Shadow, 1_400)?;
    let scene = scene.joined()?;
    tour::upload(&scene)?;
    ensure!(scene.gateway.count("IcmpTranslated")? > 0, "no router has said anything");
    ensure!(scene.gateway.count("LegLost")? == 0, "a leg was lost");
    Ok(())
}

/// T22: as without the gateway.
#[test]
fn a_client_hears_at_once_that_its_server_cannot_be_reached() -> Result<()> {
    let (scene, _behind) = scene(Host::Primary, 1_500)?;
    let connect = || {
        let vip = SocketAddr::from((VIP, SERVICE_PORT));
        scene.lab.host(Host::Client).run(|| TcpStream::connect_timeout(&vip, SOON))
    };
    connect()??;
    let server = SocketAddr::from((ADDRESS, SERVICE_PORT)).ip();
    scene.lab.host(Host::Primary).sh(&format!("ip route add unreachable {server}"))?;
    let error = connect()?.err().context("it was reached")?;
    ensure!(error.kind() == ErrorKind::HostUnreachable, "{error}");
    Ok(())
}
