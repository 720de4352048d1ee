//! How the status is printed: a block an application, a side at a time.

use std::fmt::Write as _;

use super::{BAD, DOUBTFUL, FAINT, GOOD, Show, migration, span, styled};
use crate::api::{AppStatus, ServiceStatus, SideStatus, Status};

/// Notices that are shown.
const NOTICES: usize = 5;

impl Show for Status {
    fn lines(&self) -> String {
        let mut text = String::new();
        for app in &self.apps {
            show_app(&mut text, app);
        }
        let _ = writeln!(text, "{}", styled(FAINT, self.devices.join("   ")));
        text
    }
}

fn show_app(text: &mut String, app: &AppStatus) {
    let sync = if app.primary.in_sync && app.shadow.in_sync {
        styled(GOOD, "in sync")
    } else {
        styled(BAD, "OUT OF SYNC")
    };
    let frozen = if app.frozen { styled(DOUBTFUL, "   FROZEN") } else { String::new() };
    let _ = writeln!(
        text,
        "{:<10} {} {} %   authority {}   legs {} / {}   {sync}{frozen}   writes open {}   held {}",
        app.name, app.phase, app.weight, app.authority, app.two_legs, app.flows, app.open_writes, app.held[0]
    );
    for service in app.services.iter().filter(|_| app.services.len() > 1) {
        let _ = writeln!(text, "  {}", styled(FAINT, show_service(service)));
    }
    for (name, side) in [("primary", &app.primary), ("shadow", &app.shadow)] {
        show_side(text, name, side, &app.name);
    }
    if app.in_doubt > 0 {
        let doubt = format!(
            "{} writes in doubt: the authority lost their connections, the other side does them",
            app.in_doubt
        );
        let _ = writeln!(text, "  {}", styled(BAD, doubt));
    }
    if app.overtaking > 0 {
        let order = format!(
            "{} writes may have overtaken another connection's on the mirror ({} connections lag now)",
            app.overtaking, app.lagging
        );
        let _ = writeln!(text, "  {}", styled(FAINT, order));
    }
    if app.compared > 0 {
        let differing = format!(
            "{} turns compared: {} differ; errors {} and {}",
            app.compared, app.differing, app.primary.errors_compared, app.shadow.errors_compared
        );
        let _ = writeln!(text, "  {}", styled(if app.differing > 0 { BAD } else { FAINT }, differing));
    }
    if let Some(ordered) = &app.ordered {
        migration::show_order(text, ordered);
    }
    if let Some(status) = &app.migration {
        migration::show(text, status);
    }
    let first = app.notices.len().saturating_sub(NOTICES);
    for notice in &app.notices[first..] {
        let _ = writeln!(text, "  {}", styled(FAINT, notice));
    }
}

fn show_service(service: &ServiceStatus) -> String {
    let [primary, shadow] = service.legs;
    let name = service.name.as_deref().unwrap_or_default();
    format!("{name:<8} {}   legs {primary} and {shadow}", service.listens.join(" "))
}

fn show_side(text: &mut String, name: &str, side: &SideStatus, app: &str) {
    let sync = if side.in_sync { styled(GOOD, "in sync    ") } else { styled(BAD, "out of sync") };
    let not_taken = match side.not_taken {
        0 => String::new(),
        count => styled(BAD, format!("; {count} connections not taken")),
    };
    let _ = writeln!(
        text,
        "  {name:<8} {sync}   reads {:>9}   writes {:>9}   p50 {:>7.2} ms   p99 {:>7.2} ms   errors {}   legs lost {}",
        side.answered[0],
        side.answered[1],
        side.p50_us as f64 / 1e3,
        side.p99_us as f64 / 1e3,
        side.errors,
        side.legs_lost,
    );
    let breaker = match (side.breaker.as_str(), side.next_probe) {
        ("open", Some(seconds)) => format!("; breaker open: asked again in {}", span(seconds)),
        ("half-open", _) => format!("; well again: mirror join {app}"),
        _ => String::new(),
    };
    let reason = format!("for {}: {}{breaker}", span(side.since), side.reason);
    let _ = writeln!(text, "  {:<8} {}{not_taken}", "", styled(FAINT, reason));
    if side.bytes != [0; 2] {
        let _ = writeln!(text, "  {:<8} {}", "", styled(FAINT, answers(side)));
    }
    for server in &side.servers {
        let well = if server.well { styled(GOOD, "well") } else { styled(BAD, "not well") };
        let standing = match (server.well, server.takes) {
            (true, _) => String::new(),
            (false, true) => "; tried all the same: none is well".into(),
            (false, false) => "; gets no new connections".into(),
        };
        let since = format!("for {}{standing}", span(server.since));
        let connections = format!("{} connections", server.connections);
        let service = server.service.as_ref().map(|service| format!("{service} ")).unwrap_or_default();
        let _ = writeln!(
            text,
            "  {:<8} {service}{}   {connections}   {well} {}",
            "",
            server.address,
            styled(FAINT, since)
        );
    }
}

/// Answers by the class of their status, where there are any, and payload.
fn answers(side: &SideStatus) -> String {
    let of_class = |(first, count): (usize, &u64)| (*count > 0).then(|| format!("{first}xx {count}   "));
    let statuses: String = (1..).zip(&side.statuses).filter_map(of_class).collect();
    let [requests, answers] = side.bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
    format!("{statuses}requests {requests:.1} MiB   answers {answers:.1} MiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::ServerStatus, output::tests::plain};

    fn side(in_sync: bool, reason: &str) -> SideStatus {
        SideStatus {
            in_sync,
            since: 300.0,
            reason: reason.into(),
            breaker: if in_sync { "closed" } else { "open" }.into(),
            next_probe: (!in_sync).then_some(8.0),
            servers: Vec::new(),
            legs_lost: 3,
            not_taken: if in_sync { 0 } else { 5 },
            answered: [1_200, 34],
            errors: 1,
            statuses: if in_sync { [0, 1_200, 0, 33, 1] } else { [0; 5] },
            bytes: if in_sync { [1 << 20, 5 << 19] } else { [0; 2] },
            errors_compared: 2,
            p50_us: 310,
            p99_us: 920,
        }
    }

    fn server(host: u8, well: bool, takes: bool) -> ServerStatus {
        ServerStatus {
            service: (host == 4).then(|| "api".into()),
            address: ([10, 0, 3, host], 80).into(),
            well,
            takes,
            since: 60.0,
            connections: u32::from(host),
        }
    }

    fn service(name: &str, port: u16, legs: [u32; 2]) -> ServiceStatus {
        ServiceStatus { name: Some(name.into()), listens: vec![format!("10.77.1.1:{port}/tcp")], legs }
    }

    #[test]
    fn a_status_reads_like_this() {
        let app = AppStatus {
            name: "shop".into(),
            phase: "Idle".into(),
            weight: 0.0,
            authority: "primary".into(),
            epoch: 4,
            frozen: true,
            flows: 200,
            two_legs: 7,
            open_writes: 2,
            lagging: 1,
            overtaking: 12,
            in_doubt: 0,
            held: [1, 9, 0],
            services: vec![service("web", 8_080, [150, 5]), service("api", 9_000, [50, 2])],
            primary: side(true, "found in sync"),
            shadow: SideStatus {
                servers: vec![server(2, true, true), server(3, false, false), server(4, false, true)],
                ..side(false, "it was restarted")
            },
            compared: 900,
            differing: 3,
            migration: None,
            ordered: None,
            notices: (0..9).map(|n| format!("notice {n}")).collect(),
        };
        let text = plain(&Status { pid: 1, devices: vec!["eth0: TC".into()], apps: vec![app] }.lines());
        let expected = "\
shop       Idle 0 %   authority primary   legs 7 / 200   OUT OF SYNC   FROZEN   writes open 2   held 1
  web      10.77.1.1:8080/tcp   legs 150 and 5
  api      10.77.1.1:9000/tcp   legs 50 and 2
  primary  in sync       reads      1200   writes        34   p50    0.31 ms   p99    0.92 ms   errors 1   legs lost 3
           for 5 min: found in sync
           2xx 1200   4xx 33   5xx 1   requests 1.0 MiB   answers 2.5 MiB
  shadow   out of sync   reads      1200   writes        34   p50    0.31 ms   p99    0.92 ms   errors 1   legs lost 3
           for 5 min: it was restarted; breaker open: asked again in 8 s; 5 connections not taken
           10.0.3.2:80   2 connections   well for 60 s
           10.0.3.3:80   3 connections   not well for 60 s; gets no new connections
           api 10.0.3.4:80   4 connections   not well for 60 s; tried all the same: none is well
  12 writes may have overtaken another connection's on the mirror (1 connections lag now)
  900 turns compared: 3 differ; errors 2 and 2
  notice 4
  notice 5
  notice 6
  notice 7
  notice 8
eth0: TC
";
        assert_eq!(text, expected);
    }
}
