//! How what was observed is shown.

use std::fmt::Write as _;

use super::{BAD, DOUBTFUL, FAINT, GOOD, Show, span, styled};
use crate::observe::{Observed, Services};

impl Show for Observed {
    fn lines(&self) -> String {
        let mut text = String::new();
        let on = if self.devices.is_empty() { "all devices".into() } else { self.devices.join(", ") };
        let sample =
            if self.sample > 1 { format!("   1 of {} connections", self.sample) } else { String::new() };
        let spoken = if self.protocol == "udp" { "/udp" } else { "" };
        let named = self.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        let _ = writeln!(
            text,
            "{}{spoken}{named}   {}   {on}{sample}   {} packets   {}",
            self.service,
            span(self.seconds),
            self.packets,
            missed(self.missed)
        );
        if self.packets == 0 {
            let why = format!("nothing of {} passed here: is this host on the way?", self.service);
            let _ = writeln!(text, "  {}", styled(DOUBTFUL, why));
            return text;
        }
        let share = |style, part: u64, help: &str| {
            format!("  {part:>12}  {}  {help}\n", styled(style, format!("{:>5.1} %", self.percent(part))))
        };
        let _ = writeln!(text, "requests {}", self.requests);
        text += &share(GOOD, self.shiftable, "reads that the shadow could have answered");
        text += &share(
            FAINT,
            self.writes,
            "writes, or what may be one: both sides get them, the authority answers",
        );
        for (why, count) in &self.kept {
            text += &share(DOUBTFUL, *count, why.help());
        }
        if self.protocol == "tcp" {
            let _ = writeln!(text, "connections {}", self.connections.opened);
        }
        if self.unanswered > 0 {
            let help = "not answered within 5 s";
            let _ = writeln!(text, "  {:>12}  {}", self.unanswered, styled(DOUBTFUL, help));
        }
        for (why, count) in &self.connections.unread {
            let style = if why.is_opaque() { DOUBTFUL } else { FAINT };
            let _ = writeln!(text, "  {count:>12}  {}", styled(style, why.help()));
        }
        if self.connections.not_followed > 0 {
            let help = "not followed: too many at once (--sample)";
            let _ = writeln!(text, "  {:>12}  {}", self.connections.not_followed, styled(BAD, help));
        }
        text
    }
}

impl Show for Services {
    fn lines(&self) -> String {
        self.0.iter().map(Show::lines).collect::<Vec<_>>().join("\n")
    }
}

fn missed(count: u64) -> String {
    match count {
        0 => styled(GOOD, "none missed"),
        _ => styled(BAD, format!("{count} missed: try --sample 16")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::observe::{Connections, Kept, Unread};

    fn plain(observed: &Observed) -> String {
        anstream::adapter::strip_str(&observed.lines()).to_string()
    }

    #[test]
    fn it_reads_like_this() {
        let observed = Observed {
            service: "10.0.2.2:8080".parse().unwrap(),
            seconds: 60.0,
            sample: 4,
            packets: 5_000,
            missed: 3,
            connections: Connections {
                opened: 40,
                unread: BTreeMap::from([(Unread::Before, 2), (Unread::Tls, 1)]),
                not_followed: 1,
            },
            requests: 1_000,
            writes: 95,
            shiftable: 900,
            kept: BTreeMap::from([(Kept::Split, 5)]),
            ..Observed::default()
        };
        let expected = "\
10.0.2.2:8080   60 s   all devices   1 of 4 connections   5000 packets   3 missed: try --sample 16
requests 1000
           900   90.0 %  reads that the shadow could have answered
            95    9.5 %  writes, or what may be one: both sides get them, the authority answers
             5    0.5 %  head in several segments: large cookies, small segments
connections 40
             2  open before this began: not read
             1  TLS: end it before the gateway
             1  not followed: too many at once (--sample)
";
        assert_eq!(plain(&observed), expected);
    }

    #[test]
    fn several_services_stand_one_below_the_other_and_datagrams_have_no_connections() {
        let names = Observed {
            service: "10.0.2.2:53".parse().unwrap(),
            name: Some("names".into()),
            protocol: "udp",
            seconds: 60.0,
            packets: 200,
            requests: 100,
            shiftable: 97,
            kept: BTreeMap::from([(Kept::AskedAgain, 3)]),
            unanswered: 2,
            ..Observed::default()
        };
        let web = Observed { service: "10.0.2.2:80".parse().unwrap(), ..Observed::default() };
        let text = anstream::adapter::strip_str(&Services(vec![names, web]).lines()).to_string();
        let expected = "\
10.0.2.2:53/udp (names)   60 s   all devices   200 packets   none missed
requests 100
            97   97.0 %  reads that the shadow could have answered
             0    0.0 %  writes, or what may be one: both sides get them, the authority answers
             3    3.0 %  asked before the last answer: whoever was to answer that one does
             2  not answered within 5 s

10.0.2.2:80   0 s   all devices   0 packets   none missed
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn where_nothing_passes_that_is_said() {
        let text = plain(&Observed { service: "10.0.2.2:80".parse().unwrap(), ..Observed::default() });
        assert!(text.contains("nothing of 10.0.2.2:80 passed here"), "{text}");
    }
}
