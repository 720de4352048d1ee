//! What IPv6 needs besides on the way of a policy that has addresses of it.

use super::{Line, Way};
use crate::{daemon::forwarding::keep, tap};

/// The least MTU of a link with IPv6 (RFC 8200, 5).
const LEAST_MTU: u32 = 1_280;

/// Judges it.
pub(super) fn judge(way: &Way) -> Vec<Line> {
    let mut lines = Vec::new();
    for port in &way.ports {
        let name = &port.device.name;
        if port.device.mtu < LEAST_MTU {
            lines.push(Line::failure(
                &format!("MTU of {name}"),
                format!("{} bytes: there is no IPv6 below {LEAST_MTU}", port.device.mtu),
                format!("ip link set {name} mtu {LEAST_MTU}"),
            ));
        }
        lines.push(forwarding(name, port.forwards_six));
    }
    if let Some(on) = way.tap_forwards_six {
        lines.push(forwarding(tap::NAME, on));
    }
    lines.extend(way.routes_lost.iter().map(|device| {
        Line::failure(
            &format!("router advertisements at {device}"),
            "the default route is advertised, and the kernel forgets it when forwarding is switched on",
            keep(device),
        )
    }));
    lines
}

fn forwarding(device: &str, on: bool) -> Line {
    let check = format!("IPv6 forwarding of {device}");
    if on {
        return Line::ok(&check, "on");
    }
    Line::warning(
        &check,
        "off: `mirror run` switches all on if it may; where one alone is off, look-ups for what comes in there fail",
        format!("sysctl -w net.ipv6.conf.{device}.forwarding=1"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{super::Level, Port};
    use super::*;
    use crate::network::Device;

    fn way(mtu: u32, forwards_six: bool) -> Way {
        let device = Device {
            index: 1,
            name: "client0".into(),
            mtu,
            up: true,
            kind: "veth".into(),
            ethernet: true,
            controller: None,
            vlan_of: None,
        };
        let port = Port {
            device,
            driver: Err("none".into()),
            xdp: None,
            hides_vlans: false,
            rp_filter: 0,
            forwarding: true,
            forwards_six,
        };
        Way {
            vips: vec![],
            ports: vec![port],
            servers: vec![],
            tap_forwards_six: Some(true),
            routes_lost: vec![],
        }
    }

    #[test]
    fn each_thing_that_ipv6_needs_is_said() {
        let level = |way: &Way| super::super::super::worst(&judge(way));
        assert_eq!(level(&way(1_500, true)), Level::Ok);
        assert_eq!(level(&way(1_200, true)), Level::Failure);
        assert_eq!(level(&way(1_500, false)), Level::Warning);
        assert_eq!(level(&Way { tap_forwards_six: Some(false), ..way(1_500, true) }), Level::Warning);
        let lost = Way { routes_lost: vec!["eth0".into()], ..way(1_500, true) };
        let lines = judge(&lost);
        assert_eq!(level(&lost), Level::Failure);
        assert_eq!(lines[2].advice.as_deref(), Some("sysctl -w net.ipv6.conf.eth0.accept_ra=2"));
    }
}
