//! What doesn't hold of a policy between its tables, and at which of them that is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use mirror_common::{
    abi::{MAX_APP_SERVICES, MAX_PEERS, MAX_SERVICES},
    switch_word::Side,
};

use super::{Endpoint, Nat, Policy, Service, process::Process, side::Fault};

/// What doesn't hold.
#[derive(Debug)]
pub(super) struct Found {
    /// The text that it is about, ...
    pub needle: &'static str,
    /// ... and which of those in the file.
    pub nth: usize,
    /// What it is.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Found {
    fn at(needle: &'static str, what: impl Into<String>, help: Option<&str>) -> Self {
        Self { needle, nth: 0, what: what.into(), help: help.map(Into::into) }
    }
}

/// Where each of several services begins.
const SERVICES: &str = "[[services]]";

const fn table(side: Side) -> &'static str {
    match side {
        Side::Primary => "[primary]",
        Side::Shadow => "[shadow]",
    }
}

/// What a service is called in messages.
fn called(service: &Service) -> String {
    service.name().map_or_else(|| service.vip.to_string(), |name| format!("`{name}`"))
}

impl Policy {
    /// Gives each service its sides, wherever they are written. Nothing else may be asked of the policy before.
    pub(super) fn settle(&mut self) -> Result<(), Found> {
        let Some(mut one) = self.service.take() else { return self.settle_several() };
        if !self.services.is_empty() {
            let what = "an application has one `[service]`, or several `[[services]]`: one of the two";
            return Err(Found::at("[service]", what, Some("give each its own [[services]]")));
        }
        if one.sides().next().is_some() {
            let what = "the servers of `[service]` stand in [primary] and [shadow]";
            return Err(Found::at("[service", what, None));
        }
        one.primary = self.primary.as_mut().map(Endpoint::take_servers);
        one.shadow = self.shadow.as_mut().map(Endpoint::take_servers);
        if one.primary.is_none() {
            let what = "there is no [primary]: which servers answer now?";
            return Err(Found::at("[service]", what, Some("[primary]")));
        }
        self.services.push(one);
        Ok(())
    }

    fn settle_several(&self) -> Result<(), Found> {
        if self.services.is_empty() {
            let what = "there is neither a [service] nor [[services]]: what do clients talk to?";
            return Err(Found::at("name", what, Some("[service]")));
        }
        for side in Side::BOTH {
            if self.means(side).is_some_and(Endpoint::names_servers) {
                let what = "with `[[services]]` each has its own servers: here stand those of no service";
                let help = "write them in [services.primary] and [services.shadow]";
                return Err(Found::at(table(side), what, Some(help)));
            }
        }
        for (nth, service) in self.services.iter().enumerate() {
            let found = |what: &str, help: &str| {
                let what = format!("service {}: {what}", called(service));
                Err(Found { needle: SERVICES, nth, what, help: Some(help.into()) })
            };
            if service.primary.is_none() {
                return found("there is no primary: which servers answer now?", "[services.primary]");
            }
            if service.sides().any(|(_, end)| end.names_means()) {
                let what = "`resources`, `capacity` and `process` are a whole side's";
                return found(what, "write them in [primary] and [shadow]");
            }
        }
        Ok(())
    }

    /// Says it at a service, or at the side of the only one.
    fn at_service(&self, nth: usize, side: Option<Side>, (what, help): Fault) -> Found {
        let several = |service: &Service| {
            let side = side.map(|side| format!(" the {}:", side.name())).unwrap_or_default();
            Found {
                needle: SERVICES,
                nth,
                what: format!("service {}:{side} {what}", called(service)),
                help: None,
            }
        };
        let found = self.services.get(nth).filter(|_| self.has_several()).map(several);
        let alone =
            || Found { needle: side.map_or("[service]", table), nth: 0, what: what.clone(), help: None };
        Found { help, ..found.unwrap_or_else(alone) }
    }

    /// The first thing that doesn't hold.
    pub(super) fn fault(&self) -> Option<Found> {
        self.servers_fault()
            .or_else(|| self.process_fault())
            .or_else(|| self.services_fault())
            .or_else(|| self.nat_fault())
            .or_else(|| self.between_fault())
            .or_else(|| self.bounds_fault())
    }

    fn servers_fault(&self) -> Option<Found> {
        if self.services.len() > MAX_APP_SERVICES {
            let what =
                format!("{} services: an application has {MAX_APP_SERVICES} at most", self.services.len());
            return Some(Found { needle: SERVICES, nth: MAX_APP_SERVICES, what, help: None });
        }
        for (nth, service) in self.services.iter().enumerate() {
            for (side, end) in service.sides() {
                if let Some(fault) = end.servers_fault(service) {
                    return Some(self.at_service(nth, Some(side), fault));
                }
            }
        }
        let primaries = || self.services.iter().filter_map(|service| service.side(Side::Primary));
        for (nth, service) in self.services.iter().enumerate() {
            let Some(shadow) = service.side(Side::Shadow) else { continue };
            if let Some(fault) = primaries().find_map(|primary| shadow.fault_beside(primary)) {
                return Some(self.at_service(nth, Some(Side::Shadow), fault));
            }
        }
        None
    }

    fn process_fault(&self) -> Option<Found> {
        if self.primary.as_ref().is_some_and(|primary| primary.process.is_some()) {
            let what = "only the shadow is provisioned";
            return Some(Found::at("[primary.process]", what, Some("write [shadow.process]")));
        }
        let process = self.process();
        let found = |what: &str, help| Some(Found::at("[shadow.process]", what, help));
        if let Some(process) = process {
            if let Some(what) = process.fault() {
                return found(&what, None);
            }
            let [service] = self.services.as_slice() else {
                let what =
                    "a shadow that is provisioned here serves one service: several have servers of their own";
                return found(
                    what,
                    Some("provision the services' shadows elsewhere, and leave this table out"),
                );
            };
            let Some(shadow) = service.side(Side::Shadow) else {
                return found("there is no shadow's address", Some("give its service one"));
            };
            if shadow.has_several() {
                return found("a shadow that is provisioned here is one server", None);
            }
            if shadow.nat() == Nat::Keep {
                let what = "a shadow that is provisioned here has no way back to clients";
                return found(what, Some("give it a `nat` address on its link"));
            }
            if shadow.first().is_ipv6() {
                let what = "a shadow that is provisioned here has an IPv4 address, whatever the clients' are";
                return found(what, Some("give [shadow] one"));
            }
        }
        self.scale_fault(process)
    }

    fn scale_fault(&self, process: Option<&Process>) -> Option<Found> {
        let what = self.scale.as_ref().and_then(|scale| scale.fault(process))?;
        Some(Found::at("[scale]", what, None))
    }

    fn services_fault(&self) -> Option<Found> {
        for (nth, service) in self.services.iter().enumerate() {
            if let Some(what) = service.fault() {
                return Some(self.at_service(nth, None, (what, None)));
            }
        }
        None
    }

    fn nat_fault(&self) -> Option<Found> {
        for (nth, service) in self.services.iter().enumerate() {
            for (side, end) in service.sides() {
                if let Some(fault) = end.nat_fault(service) {
                    return Some(self.at_service(nth, Some(side), fault));
                }
                if end.max_requests == 1 {
                    let what =
                        "a server that closes after each request can't be mirrored under a kept connection";
                    let found = self.at_service(nth, Some(side), (what.into(), Some("0: no limit".into())));
                    return Some(if self.has_several() {
                        found
                    } else {
                        Found { needle: "max_requests", ..found }
                    });
                }
            }
        }
        None
    }

    /// What doesn't hold of one service beside another.
    fn between_fault(&self) -> Option<Found> {
        if !self.has_several() {
            return None;
        }
        let all = || self.services.iter().enumerate();
        let mut named = BTreeSet::new();
        let mut listens = BTreeMap::new();
        for (nth, service) in all() {
            let at = |what: String, help: Option<&str>| {
                Some(self.at_service(nth, None, (what, help.map(Into::into))))
            };
            let Some(name) = service.name() else {
                return at("where there are several each has a name".into(), Some("name = \"api\""));
            };
            if !named.insert(service.variable()) {
                return at("another service has the same name".into(), None);
            }
            for one in service.all() {
                if let Some(other) = listens.insert((one.vip, one.datagrams.is_some()), name) {
                    return at(format!("{} is service `{other}`'s already", one.vip), None);
                }
            }
            if service.side(Side::Shadow).is_some() != self.has_shadow() {
                let what = "it has no shadow, and another service has one: all are moved, or none".into();
                return at(what, Some("[services.shadow]"));
            }
            for (other, (side, end)) in all()
                .filter(|(other, _)| *other != nth)
                .flat_map(|(_, other)| other.sides().map(move |end| (other, end)))
            {
                if end.nat_is_of(service).is_some() {
                    let what =
                        format!("its address is the {}'s `nat` of service {}", side.name(), called(other));
                    return at(what, Some("use an address of the gateway that no client talks to"));
                }
                if let Some(server) = end.servers().iter().find(|server| is_others(service, server.ip())) {
                    let what =
                        format!("its address is that of {server}, a server of service {}", called(other));
                    return at(what, Some("give it an address of its own, or its own primary's"));
                }
            }
        }
        self.room_fault(listens.len())
    }

    /// What the datapath's maps have no room for.
    fn room_fault(&self, listeners: usize) -> Option<Found> {
        let too_many = |what: &str, n: usize, most: u32| {
            let what = format!("{n} {what} in all services: {most} at most");
            (n > most as usize).then_some(Found { needle: SERVICES, nth: 0, what, help: None })
        };
        let legs: BTreeSet<(SocketAddr, IpAddr)> = self.services.iter().flat_map(peers).collect();
        let addresses = 2 * self.addresses().len() + 2 * self.servers().count();
        too_many("ports of addresses", listeners, MAX_SERVICES)
            .or_else(|| too_many("ports of servers", legs.len() + addresses, MAX_PEERS))
    }

    fn bounds_fault(&self) -> Option<Found> {
        let at = |needle| move |what: String| Found::at(needle, what, None);
        let joins = !self.join_hook.is_empty();
        (self.migration.plan().err().map(at("[migration]")))
            .or_else(|| self.breaker.fault(joins).map(at("[breaker]")))
            .or_else(|| self.divergence.noisy().err().map(at("[divergence]")))
            .or_else(|| self.events.fault().map(at("[events]")))
    }
}

/// Whether clients of a service talk to a server of another's, which isn't its own primary's host.
fn is_others(service: &Service, server: IpAddr) -> bool {
    service.addresses().any(|address| address == server) && !service.is_transparent(server)
}

/// From where to where a service's legs run: each server's ports, and the side's own address.
fn peers(service: &Service) -> Vec<(SocketAddr, IpAddr)> {
    let mut all = Vec::new();
    for one in service.all() {
        for (side, end) in service.sides() {
            let Some(nat) = end.nat().own() else { continue };
            for server in end.servers() {
                let port = one.ports[side as usize].unwrap_or(server.port());
                all.push((SocketAddr::new(server.ip(), port), nat));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use mirror_control::driver::Check;

    use super::*;

    const GOOD: &str = include_str!("../../../policies/services.toml");

    /// What is wrong with a policy, if anything.
    fn fault(text: &str) -> Option<String> {
        Policy::parse("x.toml", text).err().map(|found| found.in_words())
    }

    /// What is wrong with the example once this stands in it in the place of that.
    fn changed(from: &str, to: &str) -> Option<String> {
        assert!(GOOD.contains(from), "{from}");
        fault(&GOOD.replacen(from, to, 1))
    }

    /// A policy of so many services of `ports` ports each, and so many servers a side.
    fn many(services: usize, ports: usize, servers: usize) -> String {
        let mut text = "name = \"x\"\n".to_owned();
        for n in 1..=services {
            let ports: Vec<_> = (1..ports).map(|port| format!("{{ port = {} }}", 1_000 + port)).collect();
            let side = |side: &str, net: u8| {
                let at: Vec<_> = (1..=servers).map(|host| format!("\"10.{net}.{n}.{host}:1000\"")).collect();
                format!("[services.{side}]\naddresses = [{}]\nnat = \"10.{net}.0.1\"\n", at.join(", "))
            };
            text += &format!(
                "[[services]]\nname = \"s{n}\"\nvip = \"10.7.0.{n}:1000\"\nports = [{}]\n",
                ports.join(", ")
            );
            text += &(side("primary", 2) + &side("shadow", 3));
        }
        text
    }

    #[test]
    fn the_example_has_two_services_with_servers_of_their_own() {
        let policy = Policy::parse("services.toml", GOOD).unwrap();
        let servers: Vec<_> = policy.servers().map(|one| format!("{} {}", one.whose(), one.at)).collect();
        let expected = [
            "primary of web 10.0.2.2:8080",
            "shadow of web 10.0.3.2:8080",
            "primary of api 10.0.2.3:9000",
            "primary of api 10.0.2.4:9000",
            "shadow of api 10.0.3.3:9000",
            "shadow of api 10.0.3.4:9000",
        ];
        assert_eq!(servers, expected);
        assert!(policy.has_several() && policy.has_shadow());
        let checks: Vec<_> = policy.services().iter().map(|service| policy.check(service)).collect();
        assert_eq!(checks, [Check::Http("/health".into()), Check::Tcp]);
    }

    #[test]
    fn one_service_is_a_list_of_one() {
        let one = include_str!("../../../policies/http.toml");
        let alone = Policy::parse("http.toml", one).unwrap();
        let listed = one.replace("[service]", "[[services]]");
        let listed =
            listed.replace("[primary]", "[services.primary]").replace("[shadow]", "[services.shadow]");
        let listed = Policy::parse("x.toml", &listed).unwrap();
        let of = |policy: &Policy| {
            let services = policy.services().iter().map(|service| format!("{service:?}"));
            (services.collect::<Vec<_>>(), policy.has_several(), policy.has_shadow())
        };
        assert_eq!(of(&alone), of(&listed));
    }

    #[test]
    fn a_services_own_health_check_goes_before_the_migrations() {
        let text = GOOD.replace("name = \"api\"", "name = \"api\"\nhealth = \"tcp\"");
        let text = text.replace("health = \"/health\"\n", "") + "[migration]\nhealth = \"/all\"\n";
        let policy = Policy::parse("x.toml", &text).unwrap();
        let checks: Vec<_> = policy.services().iter().map(|service| policy.check(service)).collect();
        assert_eq!(checks, [Check::Http("/all".into()), Check::Tcp]);
        let udp = text
            .replace("health = \"tcp\"", "protocol = \"udp\"")
            .replace(":9000\"\nports = [{ port = 9001 }]", ":53\"");
        let udp =
            udp.replace("addresses = [\"10.0.2.3:9000\", \"10.0.2.4:9000\"]", "address = \"10.0.2.3:53\"");
        let udp =
            udp.replace("addresses = [\"10.0.3.3:9000\", \"10.0.3.4:9000\"]", "address = \"10.0.3.3:53\"");
        let policy = Policy::parse("x.toml", &udp).unwrap();
        assert_eq!(policy.check(&policy.services()[1]), Check::Dns, "datagrams have no path");
    }

    #[test]
    fn services_may_share_what_tells_their_connections_apart_all_the_same() {
        // A server; a server's host; the gateway's address; an address of two ports.
        assert_eq!(changed("10.0.2.3:9000", "10.0.2.2:8080"), None);
        assert_eq!(changed("10.0.2.3:9000", "10.0.2.2:9000"), None);
        assert_eq!(changed("vip = \"10.77.1.2:9000\"", "vip = \"10.77.1.1:9000\""), None);
        // Each at its own primary, on one host.
        assert_eq!(changed("vip = \"10.77.1.1:8080\"", "vip = \"10.0.2.2:8080\""), None);
    }

    #[test]
    fn what_is_ambiguous_is_refused_with_the_services_name() {
        let api = |says: &str| format!("service `api`: {says}");
        for (from, to, says) in [
            ("name = \"api\"", "name = \"web\"", "service `web`: another service has the same name".into()),
            ("name = \"api\"", "name = \"WEB\"", "service `WEB`: another service has the same name".into()),
            ("\"10.77.1.2:9000\"", "\"10.77.1.1:8080\"", api("10.77.1.1:8080 is service `web`'s already")),
            ("port = 9001", "port = 9000", api("port 9000 is there twice")),
            (
                "\"10.77.1.2:9000\"",
                "\"10.0.2.2:9000\"",
                api("its address is that of 10.0.2.2:8080, a server of"),
            ),
            (
                "\"10.0.3.3:9000\"",
                "\"10.0.2.2:8080\"",
                api("the shadow: the shadow is the primary's own server"),
            ),
            ("[services.shadow]", "[services.copy]", "unknown field `copy`".into()),
            (
                "\"10.0.2.3:9000\", ",
                "\"[2001:db8::3]:9000\", ",
                api("the primary: a side's servers are all of one family"),
            ),
        ] {
            let found = changed(from, to).unwrap_or_default();
            assert!(found.contains(&says), "{to}: {found}");
        }
    }

    #[test]
    fn an_error_points_at_its_service() {
        let line = GOOD.lines().take_while(|line| !line.contains("api")).count();
        let found = changed("port = 9001", "port = 9000").unwrap();
        assert!(found.starts_with(&format!("line {line}:")), "{found} is not at {line}");
    }

    #[test]
    fn there_are_not_too_many() {
        assert_eq!(fault(&many(16, 1, 16)), None);
        assert_eq!(fault(&many(16, 16, 1)), None);
        for (services, ports, servers, says) in [
            (17, 1, 1, "17 services: an application has 16 at most"),
            (16, 17, 1, "272 ports of addresses in all services: 256 at most"),
            (8, 20, 16, "ports of servers in all services: 4096 at most"),
            (2, 65, 1, "64 ports at most"),
        ] {
            let found = fault(&many(services, ports, servers)).unwrap_or_default();
            assert!(found.contains(says), "{found}");
        }
    }
}
