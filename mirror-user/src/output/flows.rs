//! Single connections, whose oldest debt is the oldest first.

use std::fmt::Write as _;

use super::{FAINT, Show, span, styled};
use crate::api::{FlowStatus, Flows, LegStatus};

impl Show for Flows {
    fn lines(&self) -> String {
        // Where there is one alone it needs no name.
        let named = self.flows.iter().any(|flow| flow.service_name.is_some());
        let service = |name: &str| if named { format!("{name:<12} ") } else { String::new() };
        // Of connections alone nothing need be said, either.
        let mixed = self.flows.iter().any(|flow| flow.protocol == "udp");
        let spoken = |what: &str| if mixed { format!("{what:<9} ") } else { String::new() };
        let mut text = format!(
            "{:<22} {}{}{:<8} {:<9} {:<16} {:<24} {:<16} {:<24} {:>8} {:>7} {:>7}  \n",
            "CLIENT",
            service("SERVICE"),
            spoken("PROTOCOL"),
            "STATE",
            "AUTHORITY",
            "PRIMARY",
            "OWES",
            "SHADOW",
            "OWES",
            "TURNS",
            "AGE",
            "IDLE"
        );
        for flow in &self.flows {
            let flags = [
                (flow.writes_open, "write"),
                (flow.incomplete, "incomplete"),
                (flow.held, "held"),
                (flow.opaque, "opaque"),
            ];
            let flags: Vec<&str> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            let _ = writeln!(
                text,
                "{:<22} {}{}{:<8} {:<9} {:<16} {:<24} {:<16} {:<24} {:>8} {:>7} {:>7}  {}",
                flow.client,
                service(flow.service_name.as_deref().unwrap_or("-")),
                spoken(&protocol(flow)),
                flow.state,
                flow.authority,
                leg(&flow.primary),
                owed(&flow.primary),
                leg(&flow.shadow),
                owed(&flow.shadow),
                flow.turns,
                span(flow.age),
                span(flow.idle),
                flags.join(" ")
            );
        }
        let rest = (self.total as usize).saturating_sub(self.flows.len());
        if rest > 0 {
            let _ = writeln!(text, "{}", styled(FAINT, format!("and {rest} more: --limit N")));
        }
        text
    }
}

/// What is spoken, with a message's identifier.
fn protocol(flow: &FlowStatus) -> String {
    match flow.message {
        Some(id) => format!("{} {id}", flow.protocol),
        None => flow.protocol.clone(),
    }
}

fn leg(leg: &LegStatus) -> String {
    match &leg.server {
        _ if leg.port == 0 => leg.state.clone(),
        Some(server) => format!("{} :{} {server}", leg.state, leg.port),
        None => format!("{} :{}", leg.state, leg.port),
    }
}

/// Bytes and answers, and how long the oldest of them has been owed.
fn owed(leg: &LegStatus) -> String {
    if leg.owed_bytes == 0 && leg.owed_answers == 0 {
        return "-".into();
    }
    format!("{} B, {} ans., {} ms", leg.owed_bytes, leg.owed_answers, leg.behind_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leg_owes_stands_beside_it() {
        let leg = |port, owed_bytes, owed_answers, behind_ms| LegStatus {
            state: "open".into(),
            port,
            server: (port == 6_000).then(|| "10.0.3.2:80".into()),
            answered: 7,
            owed_bytes,
            owed_answers,
            behind_ms,
        };
        let flow = FlowStatus {
            client: "10.0.1.2:40000".into(),
            service: "10.77.1.1:8080".into(),
            service_name: None,
            protocol: "tcp".into(),
            message: None,
            state: "open".into(),
            authority: "primary".into(),
            turns: 8,
            writes_open: true,
            incomplete: false,
            held: false,
            opaque: false,
            age: 60.0,
            idle: 0.3,
            primary: leg(5_000, 0, 0, 0),
            shadow: leg(6_000, 1_460, 1, 340),
        };
        let asked = FlowStatus {
            protocol: "udp".into(),
            message: Some(4_711),
            state: "asked".into(),
            ..flow.clone()
        };
        let named = FlowStatus { service_name: Some("api".into()), ..flow.clone() };
        let text = anstream::adapter::strip_str(
            &Flows { total: 3, questions: 0, flows: vec![flow.clone()] }.lines(),
        )
        .to_string();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let expected = format!(
            "{:<22} open     primary   {:<16} {:<24} {:<16} {:<24} {:>8} {:>7} {:>7}  write",
            "10.0.1.2:40000",
            "open :5000",
            "-",
            "open :6000 10.0.3.2:80",
            "1460 B, 1 ans., 340 ms",
            8,
            "60 s",
            "0 s"
        );
        assert_eq!(lines[1..], [expected.as_str(), "and 2 more: --limit N"]);
        let text = Flows { total: 1, questions: 0, flows: vec![named] }.lines();
        let begins = |line: &str| text.lines().any(|one| one.starts_with(line));
        assert!(begins(&format!("{:<22} {:<12} STATE", "CLIENT", "SERVICE")), "{text}");
        assert!(begins(&format!("{:<22} {:<12} open", "10.0.1.2:40000", "api")), "{text}");
        let text = Flows { total: 2, questions: 1, flows: vec![asked, flow] }.lines();
        let begins = |line: &str| text.lines().any(|one| one.starts_with(line));
        assert!(begins(&format!("{:<22} PROTOCOL  STATE", "CLIENT")), "{text}");
        assert!(begins(&format!("{:<22} udp 4711  asked", "10.0.1.2:40000")), "{text}");
        assert!(begins(&format!("{:<22} tcp       open", "10.0.1.2:40000")), "{text}");
    }
}
