//! What lies on the way of a policy's packets: addresses, devices, neighbours.

mod server;
mod six;

use std::net::IpAddr;

use self::server::{kept, nat, neighbour};
use super::{Level, Line};
use crate::{
    device::{
        Driver, HIDES_VLANS,
        xdp::{Features, VETH_ADVICE},
    },
    network::{Device, Neighbour, Route, bits, headers},
    policy::{self, Hook, Nat, Policy},
};

/// What was found about a device that the datapath is at.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// The device.
    pub device: Device,
    /// Its driver, or why it isn't known.
    pub driver: Result<Driver, String>,
    /// What the driver says that it can do with XDP.
    pub xdp: Option<Features>,
    /// It takes the tags off frames of VLANs that have devices of their own: XDP must not see those.
    pub hides_vlans: bool,
    /// `rp_filter` of the device and of all: the larger one counts.
    pub rp_filter: u32,
    /// `forwarding` of the device, for IPv4.
    pub forwarding: bool,
    /// The same for IPv6.
    pub forwards_six: bool,
}

/// What was found about a side's server.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// The way to it.
    pub route: Result<Route, String>,
    /// What is known of the next hop.
    pub neighbour: Neighbour,
    /// The device that has the side's `nat` address.
    pub nat_device: Option<u32>,
}

/// What was found on the way.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// By address of the service: the device that has it.
    pub vips: Vec<Option<Device>>,
    /// The devices that the datapath is at.
    pub ports: Vec<Port>,
    /// In the order of [`Policy::servers`].
    pub servers: Vec<Server>,
    /// Whether IPv6's forwarding is on at the TAP; nothing: there is none yet.
    pub tap_forwards_six: Option<bool>,
    /// Devices whose advertised default route is lost when IPv6's forwarding is switched on.
    pub routes_lost: Vec<String>,
}

/// Judges all of it.
pub(super) fn judge(policy: &Policy, way: &Way) -> Vec<Line> {
    let vips = policy.addresses().into_iter().zip(&way.vips);
    let mut lines: Vec<Line> =
        vips.map(|(address, device)| vip(policy, way, address, device.as_ref())).collect();
    for port in &way.ports {
        lines.extend([hook(policy.hook, port), filter(port)]);
        lines.extend(standing(port));
    }
    if policy.six().next().is_some() {
        lines.extend(six::judge(way));
    }
    for (one, server) in policy.servers().zip(&way.servers) {
        let (name, address) = (&one.whose(), one.at.ip());
        match &server.route {
            Err(error) => {
                lines.push(Line::failure(
                    name,
                    error,
                    format!("ip route add {address}/{} via ROUTER", bits(address)),
                ));
                continue;
            }
            Ok(route) => {
                lines.push(neighbour(name, route.hop, server.neighbour));
                lines.push(match one.end.nat() {
                    Nat::Own(own) => nat(name, own, route, address, server.nat_device, &way.ports),
                    Nat::Keep => kept(name, address),
                });
                lines.extend(mtu(&one, route, policy, way));
            }
        }
    }
    lines
}

fn vip(policy: &Policy, way: &Way, address: IpAddr, device: Option<&Device>) -> Line {
    match device {
        Some(device) if !device.holds_addresses_alone() => {
            Line::ok("service", format!("{address} is an address of {}", device.name))
        }
        Some(device) => {
            let by: Vec<&str> = clients(way).map(|port| port.device.name.as_str()).collect();
            let found = format!(
                "{address} is an address of {}; clients may come in by {}",
                device.name,
                by.join(", ")
            );
            Line::ok("service", found)
        }
        None if policy.is_transparent(address) => Line::ok(
            "service",
            format!(
                "{address} is the primary's own: this host must be on its clients' way there, and on the way back"
            ),
        ),
        None if policy.devices.is_empty() => Line::failure(
            "service",
            format!("no device has {address}"),
            format!("ip addr add {address}/{} dev DEVICE, or name `devices` in the policy", bits(address)),
        ),
        None => Line::warning(
            "service",
            format!("no device has {address}: its packets must be routed to this host"),
            format!("ip addr add {address}/{} dev {}", bits(address), policy.devices[0]),
        ),
    }
}

/// The devices that clients come in by.
fn clients(way: &Way) -> impl Iterator<Item = &Port> {
    let held: Vec<_> =
        way.vips.iter().flatten().filter(|d| !d.holds_addresses_alone()).map(|d| d.index).collect();
    // An address of the loopback or a dummy is reached by every link.
    let any = held.len() < way.vips.len();
    way.ports
        .iter()
        .filter(move |port| held.contains(&port.device.index) || any && port.device.is_on_a_link())
}

fn name_of(ports: &[Port], index: u32) -> String {
    ports
        .iter()
        .find(|port| port.device.index == index)
        .map_or_else(|| format!("device {index}"), |port| port.device.name.clone())
}

fn hook(wanted: Hook, port: &Port) -> Line {
    let check = format!("hook at {}", port.device.name);
    let driver = match &port.driver {
        Ok(driver) => driver.name.clone(),
        Err(error) => format!("unknown ({error})"),
    };
    let on_bus = port.driver.as_ref().is_ok_and(|driver| driver.on_bus);
    let native = port.xdp.is_some_and(|xdp| xdp.native);
    let mode = if native { "native XDP" } else { "no native XDP" };
    let said = format!("driver {driver}, {mode}");
    match wanted {
        Hook::Tc => Line::ok(&check, format!("{said}; TC by policy")),
        Hook::Auto if native && on_bus && port.hides_vlans => {
            Line::warning(&check, format!("{said}; TC: {HIDES_VLANS}"), shows_vlans(port))
        }
        Hook::Auto if native && on_bus => Line::ok(&check, format!("{said}; XDP")),
        Hook::Auto => Line::ok(&check, format!("{said}; TC")),
        Hook::Xdp if !native => Line::failure(&check, said, "hook = \"auto\" in the policy, or another card"),
        Hook::Xdp if port.hides_vlans => {
            Line::failure(&check, format!("{said}; {HIDES_VLANS}"), shows_vlans(port))
        }
        Hook::Xdp if driver == "veth" => {
            let takes = port.xdp.is_some_and(|xdp| xdp.takes);
            let level = if takes { Level::Warning } else { Level::Failure };
            let trouble = if takes {
                "checksums that the other end leaves to the card are never filled in"
            } else {
                "its other end drops what is redirected to it, without `gro on` there"
            };
            Line { check, level, found: format!("{said}: {trouble}"), advice: Some(VETH_ADVICE.into()) }
        }
        Hook::Xdp => Line::ok(&check, format!("{said}; XDP by policy")),
    }
}

/// What leaves a frame its tag.
fn shows_vlans(port: &Port) -> String {
    format!("ethtool -K {} rxvlan off", port.device.name)
}

fn filter(port: &Port) -> Line {
    let check = format!("rp_filter of {}", port.device.name);
    match port.rp_filter {
        1 => Line::warning(
            &check,
            "strict: what the kernel forwards itself must come in where answers go out",
            format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", port.device.name),
        ),
        0 => Line::ok(&check, "off"),
        _ => Line::ok(&check, "loose"),
    }
}

fn standing(port: &Port) -> Vec<Line> {
    let name = &port.device.name;
    let mut lines = Vec::new();
    if !port.device.up {
        lines.push(Line::failure(&format!("link {name}"), "down", format!("ip link set {name} up")));
    }
    if !port.forwarding {
        lines.push(Line::warning(
            &format!("forwarding of {name}"),
            "off: route look-ups for packets that come in there fail",
            format!("sysctl -w net.ipv4.conf.{name}.forwarding=1"),
        ));
    }
    lines
}

/// A leg's path must take the segments that the client was promised. Towards an IPv6 server the daemon sees to it.
fn mtu(one: &policy::Server<'_>, route: &Route, policy: &Policy, way: &Way) -> Option<Line> {
    let address = one.at.ip();
    let port = |index: u32| way.ports.iter().find(|port| port.device.index == index);
    let leads_to_a_server = |port: &Port| {
        way.servers.iter().any(|server| server.route.as_ref().is_ok_and(|r| r.device == port.device.index))
    };
    let mtus = |of: &dyn Fn(&Port) -> bool| clients(way).filter(|p| of(p)).map(|p| p.device.mtu).max();
    let client = mtus(&|port| !leads_to_a_server(port)).or_else(|| mtus(&|_| true))?;
    let leg = port(route.device)?.device.mtu.min(route.mtu.unwrap_or(u32::MAX));
    let (mss, takes) = (u32::from(one.end.mss), leg.saturating_sub(headers(address)));
    let promised = client.saturating_sub(policy.addresses().into_iter().map(headers).min().unwrap_or(0));
    let check = format!("MTU towards the {}", one.whose());
    let fits = takes >= promised || if mss == 0 { address.is_ipv6() } else { mss <= takes };
    if fits {
        return Some(Line::ok(&check, format!("{leg} bytes; clients' {client}")));
    }
    Some(Line::failure(
        &check,
        format!("{leg} bytes, clients' {client}: full segments don't fit"),
        match (one.side.name(), one.service.name()) {
            (side, None) => format!("mss = {takes} in the policy's [{side}]"),
            (side, Some(name)) => {
                format!("mss = {takes} in [services.{side}] of the policy's service {name}")
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use mirror_common::switch_word::Side;

    use super::super::worst;
    use super::*;

    const POLICY: &str = include_str!("../../../policies/http.toml");

    fn policy(more: &str) -> Policy {
        Policy::parse("x.toml", &format!("{more}\n{POLICY}")).unwrap()
    }

    #[test]
    fn where_clients_talk_to_the_primary_itself_no_address_is_missing() {
        let text = include_str!("../../../policies/transparent.toml");
        let policy = Policy::parse("transparent.toml", text).unwrap();
        let mut way = Way { vips: vec![None], ..fine() };
        way.servers.iter_mut().for_each(|server| server.nat_device = None);
        let lines = judge(&policy, &way);
        assert!(lines.iter().all(|line| line.level == Level::Ok), "{lines:#?}");
        assert!(lines.iter().any(|line| line.found.contains("the primary's own")), "{lines:#?}");
    }

    fn device(index: u32, name: &str, kind: &str) -> Device {
        let (mtu, ethernet) = if kind.is_empty() { (65_536, false) } else { (1_500, true) };
        let (controller, vlan_of) = (None, None);
        Device { index, name: name.into(), mtu, up: true, kind: kind.into(), ethernet, controller, vlan_of }
    }

    fn port(index: u32, name: &str) -> Port {
        Port {
            device: device(index, name, "veth"),
            driver: Ok(Driver { name: "veth".into(), on_bus: false }),
            xdp: Some(Features { native: true, takes: true }),
            hides_vlans: false,
            rp_filter: 0,
            forwarding: true,
            forwards_six: true,
        }
    }

    fn server(device: u32, hop: &str) -> Server {
        Server {
            route: Ok(Route { device, hop: hop.parse().unwrap(), mtu: None, source: None }),
            neighbour: Neighbour::Kept,
            nat_device: Some(device),
        }
    }

    fn fine() -> Way {
        Way {
            vips: vec![Some(device(1, "client0", "veth"))],
            ports: vec![port(1, "client0"), port(2, "primary0"), port(3, "shadow0")],
            servers: vec![server(2, "10.0.2.2"), server(3, "10.0.3.2")],
            tap_forwards_six: None,
            routes_lost: Vec::new(),
        }
    }

    fn only(policy: &Policy, way: &Way, level: Level) -> Line {
        let mut bad: Vec<Line> =
            judge(policy, way).into_iter().filter(|line| line.level != Level::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        assert_eq!(bad[0].level, level, "{bad:?}");
        bad.remove(0)
    }

    fn advice(line: &Line) -> &str {
        line.advice.as_deref().unwrap()
    }

    #[test]
    fn a_lab_is_fine() {
        let lines = judge(&policy(""), &fine());
        assert_eq!(worst(&lines), Level::Ok, "{lines:?}");
    }

    #[test]
    fn each_of_several_servers_is_looked_at() {
        let text = include_str!("../../../policies/balanced.toml");
        let policy = Policy::parse("balanced.toml", text).unwrap();
        let servers = policy.servers().map(|one| {
            let device = if one.side == Side::Primary { 2 } else { 3 };
            server(device, &one.at.ip().to_string())
        });
        let mut way = Way { servers: servers.collect(), ..fine() };
        assert_eq!(worst(&judge(&policy, &way)), Level::Ok);
        way.servers[4].neighbour = Neighbour::Failed;
        let line = only(&policy, &way, Level::Failure);
        assert!(line.check.contains("shadow") && line.found.contains("10.0.3.3"), "{line:?}");
    }

    #[test]
    fn addresses_that_nobody_has_are_typed_out() {
        let line = only(&policy(""), &Way { vips: vec![None], ..fine() }, Level::Failure);
        assert!(advice(&line).starts_with("ip addr add 10.77.1.1/32 dev"), "{line:?}");
        let way = Way { vips: vec![None], ..fine() };
        only(&policy("devices = [\"client0\"]"), &way, Level::Warning);
        let mut way = fine();
        way.servers[1].nat_device = None;
        let line = only(&policy(""), &way, Level::Failure);
        assert_eq!(advice(&line), "ip addr add 10.0.3.101/32 dev shadow0");
        way.servers[1].route =
            Ok(Route { device: 3, hop: IpAddr::from([10, 0, 3, 254]), mtu: None, source: None });
        only(&policy(""), &way, Level::Warning);
    }

    #[test]
    fn what_the_host_sends_itself_must_not_come_from_where_legs_do() {
        let mut way = fine();
        let route = way.servers[1].route.clone().unwrap();
        way.servers[1].route = Ok(Route { source: Some(IpAddr::from([10, 0, 3, 101])), ..route });
        let line = only(&policy(""), &way, Level::Warning);
        assert!(line.found.contains("come from 10.0.3.101"), "{line:?}");
    }

    #[test]
    fn an_address_of_the_loopback_is_reached_by_every_link() {
        let mut way = Way { vips: vec![Some(device(9, "lo", ""))], ..fine() };
        let lines = judge(&policy(""), &way);
        assert_eq!(worst(&lines), Level::Ok, "{lines:?}");
        assert!(
            lines[0].found.ends_with("of lo; clients may come in by client0, primary0, shadow0"),
            "{lines:?}"
        );
        way.ports[0].device.mtu = 9_000;
        assert_eq!(worst(&judge(&policy(""), &way)), Level::Failure);
    }

    #[test]
    fn a_way_that_is_not_there_is_said() {
        let mut way = fine();
        way.servers[0].neighbour = Neighbour::Failed;
        only(&policy(""), &way, Level::Failure);
        way.servers[0].neighbour = Neighbour::Unknown;
        assert_eq!(advice(&only(&policy(""), &way, Level::Warning)), "ping -c 1 10.0.2.2");
        way.servers[0].route = Err("no route".into());
        only(&policy(""), &way, Level::Failure);
    }

    #[test]
    fn a_narrower_leg_needs_a_smaller_segment() {
        let mut way = fine();
        way.ports[2].device.mtu = 1_400;
        let line = only(&policy(""), &way, Level::Failure);
        assert_eq!(advice(&line), "mss = 1360 in the policy's [shadow]");
        let text = POLICY.replace("nat = \"10.0.3.101\"", "nat = \"10.0.3.101\"\nmss = 1360");
        let clamped = Policy::parse("x.toml", &text).unwrap();
        assert_eq!(worst(&judge(&clamped, &way)), Level::Ok);
        let mut way = fine();
        way.servers[1].route =
            Ok(Route { device: 3, hop: IpAddr::from([10, 0, 3, 2]), mtu: Some(1_300), source: None });
        only(&policy(""), &way, Level::Failure);
    }

    #[test]
    fn xdp_by_policy_wants_a_driver_that_has_it() {
        let mut way = fine();
        let cards = |way: &mut Way| {
            for port in &mut way.ports {
                port.driver = Ok(Driver { name: "ice".into(), on_bus: true });
            }
        };
        cards(&mut way);
        assert_eq!(worst(&judge(&policy("hook = \"xdp\""), &way)), Level::Ok);
        way.ports[1].hides_vlans = true;
        assert_eq!(advice(&only(&policy(""), &way, Level::Warning)), "ethtool -K primary0 rxvlan off");
        only(&policy("hook = \"xdp\""), &way, Level::Failure);
        assert_eq!(worst(&judge(&policy("hook = \"tc\""), &way)), Level::Ok);
        way.ports[1].hides_vlans = false;
        way.ports[1].xdp = None;
        only(&policy("hook = \"xdp\""), &way, Level::Failure);
        assert_eq!(worst(&judge(&policy(""), &way)), Level::Ok, "auto takes TC");
        let mut way = fine();
        let warned = judge(&policy("hook = \"xdp\""), &way);
        assert_eq!(worst(&warned), Level::Warning);
        way.ports[2].xdp = Some(Features { native: true, takes: false });
        assert_eq!(worst(&judge(&policy("hook = \"xdp\""), &way)), Level::Failure);
    }

    #[test]
    fn a_device_that_is_down_strict_or_does_not_forward_is_said() {
        let mut way = fine();
        way.ports[0].rp_filter = 1;
        only(&policy(""), &way, Level::Warning);
        way = fine();
        way.ports[0].forwarding = false;
        only(&policy(""), &way, Level::Warning);
        way = fine();
        way.ports[0].device.up = false;
        only(&policy(""), &way, Level::Failure);
    }
    /// Clients of IPv4 fill what IPv6's longer header needs: 20 bytes.
    #[test]
    fn towards_an_ipv6_server_the_daemon_sees_to_the_segments() {
        let six =
            POLICY.replace("10.0.3.2:8080", "[2001:db8:3::2]:8080").replace("10.0.3.101", "2001:db8:3::101");
        let mut way = fine();
        way.servers[1] = server(3, "2001:db8:3::2");
        let judged =
            |more: &str, way: &Way| judge(&Policy::parse("x.toml", &format!("{six}\n{more}")).unwrap(), way);
        assert_eq!(worst(&judged("", &way)), Level::Ok);
        assert_eq!(worst(&judged("mss = 1440", &way)), Level::Ok);
        let lines = judged("mss = 1460", &way);
        assert_eq!(worst(&lines), Level::Failure, "{lines:?}");
        assert!(
            lines.iter().any(|line| line.advice.as_deref() == Some("mss = 1440 in the policy's [shadow]"))
        );
        way.servers[1].nat_device = None;
        let lines = judged("", &way);
        assert!(
            lines.iter().any(|line| line.advice.as_deref()
                == Some("ip addr add 2001:db8:3::101/128 dev shadow0 preferred_lft 0")),
            "{lines:?}"
        );
    }
}
