//! `mirror policy init`: a policy from what a running primary, or its unit, says of itself.

mod process;
mod unit;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
};

pub use process::from_pid;
pub use unit::from_unit;

use super::{
    Name,
    process::{Bytes, Cores},
};

/// Folders that many programs write to: of those only the files themselves are copied.
const SHARED: [&str; 14] = [
    "/", "/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
    "/var/run", "/var/tmp",
];
/// Folders with sockets and pid files of the primary's, which its shadow must not meet.
const HIDDEN: [&str; 2] = ["/run", "/tmp"];
/// Variables that are of one process and its manager.
const MANAGERS: [&str; 9] = [
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MAINPID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// When to take which order; as policies/http.toml has it.
const ORDER: &str = "\
# order = \"client\"   # for browsers and clients with several connections, so that each reads what it wrote;
#                    # \"service\" where all come from one address (a proxy): writes go at the shadow's pace;
#                    # \"connection\" where neither is so.";

/// What is known of a primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where this is from.
    pub source: String,
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Its working directory.
    pub directory: Option<PathBuf>,
    /// Its user's name.
    pub user: Option<String>,
    /// Files that it may have open.
    pub open_files: Option<u64>,
    /// Thousandths of a core that it is limited to.
    pub cpu_millicores: Option<u32>,
    /// Bytes of memory that it is limited to.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory that it uses now.
    pub memory_used: Option<u64>,
    /// Where it listens.
    pub listens: Vec<SocketAddr>,
    /// Files and folders that it writes to.
    pub writes: Vec<PathBuf>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What a person says beyond it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Given {
    /// Name of the application
    #[arg(long, value_parser = |text: &str| Name::try_from(text.to_owned()))]
    pub name: Option<Name>,
    /// What clients talk to
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub vip: Option<SocketAddr>,
    /// The gateway's address that the primary's connections come from
    #[arg(long, value_name = "ADDRESS")]
    pub primary_nat: Option<IpAddr>,
    /// Where the shadow is to serve, by IPv4; the primary's address is replaced by it in the command and the environment
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub shadow: Option<SocketAddrV4>,
    /// The gateway's address on the link to the shadow
    #[arg(long, value_name = "ADDRESS")]
    pub shadow_nat: Option<Ipv4Addr>,
    /// Cores that the shadow may use
    #[arg(long)]
    pub cpu: Option<Cores>,
    /// Memory that the shadow may use, as 512MiB
    #[arg(long)]
    pub memory: Option<Bytes>,
}

impl Found {
    /// The policy's text. What isn't known stands in comments: the policy doesn't hold until they are filled in.
    pub fn policy(&self, given: &Given) -> String {
        let mut text = Text(format!("# Made by `mirror policy init` from {}.\n", self.source));
        for note in &self.notes {
            text.line(format_args!("# Note: {note}"));
        }
        let name = given.name.as_ref().map(|name| name.as_str().to_owned()).or_else(|| self.name());
        text.value("name", name.map(quoted), "\"APP\"", "1 to 32 letters, digits, - or _");
        text.value("join_hook", None, "[\"/PROGRAM\"]", "copies the state from $MIRROR_FROM to $MIRROR_TO");
        text.line(format_args!("{ORDER}"));
        text.table("service");
        text.value("vip", given.vip.map(quoted), "\"ADDRESS:PORT\"", "what clients talk to");
        text.table("primary");
        text.value("address", self.address().map(quoted), "\"ADDRESS:PORT\"", &self.listening());
        let nat = "the gateway's address that its connections come from";
        text.value("nat", given.primary_nat.map(quoted), "\"ADDRESS\"", nat);
        text.table("shadow");
        text.value("address", given.shadow.map(quoted), "\"ADDRESS:PORT\"", "no host has this address yet");
        text.value("nat", given.shadow_nat.map(quoted), "\"ADDRESS\"", "no device has this address yet");
        self.process(given, &mut text);
        text.0
    }

    fn process(&self, given: &Given, text: &mut Text) {
        text.table("shadow.process");
        let words: Vec<String> = self.command.iter().map(|word| quoted(self.moved(word, given))).collect();
        let command = (!words.is_empty()).then(|| format!("[{}]", words.join(", ")));
        if given.shadow.is_none() {
            text.line(format_args!("# It must listen on the shadow's address, or on all."));
        }
        text.value("command", command, "[\"/PROGRAM\"]", "by its absolute path");
        let directory = self.directory.as_ref().map(|path| quoted(path.display()));
        text.value("directory", directory, "\"/\"", "its working directory");
        text.value("user", self.user.as_ref().map(quoted), "\"USER\"", "by name");
        let copies = folders_of(&self.writes);
        text.line(format_args!(
            "# Found among the files that it writes to now, its output aside; is that all?"
        ));
        text.value("copy", Some(list(&copies)), "", "");
        text.value("empty", Some(list(&self.hidden(&copies))), "", "");
        let cpu = given.cpu.map(Cores::millicores).or(self.cpu_millicores);
        let cpu = cpu.map(|cpu| format!("{}", f64::from(cpu) / 1e3));
        text.value("cpu", cpu, "1.0", "cores; the primary isn't limited");
        let memory = given.memory.map(Bytes::get).or(self.memory_bytes).map(mebibytes);
        let used =
            self.memory_used.map_or(String::new(), |used| format!(", and uses {} now", mebibytes(used)));
        text.value("memory", memory, "\"512MiB\"", &format!("the primary isn't limited{used}"));
        text.value("open_files", self.open_files.map(|n| n.to_string()), "1024", "as many as who provisions");
        text.value("egress", Some("[]".into()), "", "");
        text.value("health", None, "\"/HEALTH\"", "without it: \"tcp\"");
        text.table("shadow.process.environment");
        for (name, value) in self.variables() {
            text.value(&quoted(name), Some(quoted(self.moved(value, given))), "", "");
        }
    }

    /// Its own part of the environment.
    fn variables(&self) -> impl Iterator<Item = (&String, &String)> {
        self.environment.iter().filter(|(name, _)| !MANAGERS.contains(&name.as_str()))
    }

    /// The program's own name, where it is one for an application.
    fn name(&self) -> Option<String> {
        let name = Path::new(self.command.first()?).file_name()?.to_str()?;
        Name::try_from(name.to_owned()).ok().map(|name| name.as_str().to_owned())
    }

    /// Where it listens, when that is one address that others can reach.
    fn address(&self) -> Option<SocketAddr> {
        match self.listens.as_slice() {
            [one] if !one.ip().is_unspecified() && !one.ip().is_loopback() => Some(*one),
            _ => None,
        }
    }

    fn listening(&self) -> String {
        let listens: Vec<String> = self.listens.iter().map(ToString::to_string).collect();
        match listens.as_slice() {
            [] => "where does it listen?".into(),
            some => format!("it listens on {}", some.join(", ")),
        }
    }

    /// A word with the shadow's address in the place of the primary's.
    fn moved(&self, word: &str, given: &Given) -> String {
        let (Some(old), Some(new)) = (self.address(), given.shadow) else { return word.to_owned() };
        let (ip, new_ip) = (old.ip().to_string(), new.ip().to_string());
        let whole = replaced(word, &old.to_string(), &new.to_string());
        // An address of IPv6 in a URL is in brackets, and the shadow's, of IPv4, isn't.
        replaced(&whole.replace(&format!("[{ip}]"), &new_ip), &ip, &new_ip)
    }

    /// Folders to be hidden: those without anything that it needs.
    fn hidden(&self, copies: &[PathBuf]) -> Vec<PathBuf> {
        let words = self.command.iter().chain(self.variables().map(|(_, value)| value)).map(Path::new);
        let needed: Vec<&Path> =
            words.chain(copies.iter().map(PathBuf::as_path)).chain(self.directory.as_deref()).collect();
        let free = |folder: &Path| !needed.iter().any(|path| path.starts_with(folder));
        HIDDEN.iter().map(PathBuf::from).filter(|folder| free(folder)).collect()
    }
}

/// Replaces an address where it isn't part of a longer one.
fn replaced(word: &str, old: &str, new: &str) -> String {
    let mut text = String::new();
    let mut rest = word;
    let part = |c: char| match old.contains("::") || old.matches(':').count() > 1 {
        true => c.is_ascii_hexdigit() || c == ':' || c == '.',
        false => c.is_ascii_digit() || c == '.',
    };
    while let Some(at) = rest.find(old) {
        let (before, after) = (&rest[..at], &rest[at + old.len()..]);
        let alone = !before.ends_with(part) && !after.starts_with(part);
        text.push_str(before);
        text.push_str(if alone { new } else { old });
        rest = after;
    }
    text + rest
}

/// The folders that files are written in; of shared ones the files. None lies within another.
fn folders_of(writes: &[PathBuf]) -> Vec<PathBuf> {
    let shared = |folder: &Path| SHARED.iter().any(|shared| folder == Path::new(shared));
    let mut folders: Vec<PathBuf> = writes
        .iter()
        .map(|path| match path.parent() {
            Some(folder) if path.is_file() && !shared(folder) => folder.to_owned(),
            _ => path.clone(),
        })
        .collect();
    folders.sort();
    folders.dedup();
    let all = folders.clone();
    folders.retain(|folder| !all.iter().any(|other| other != folder && folder.starts_with(other)));
    folders
}

fn list(paths: &[PathBuf]) -> String {
    let quoted: Vec<String> = paths.iter().map(|path| quoted(path.display())).collect();
    format!("[{}]", quoted.join(", "))
}

/// A size in the policy's unit, rounded up.
fn mebibytes(bytes: u64) -> String {
    format!("\"{}MiB\"", bytes.div_ceil(1 << 20))
}

/// A string as TOML has it.
fn quoted(text: impl std::fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// The policy's text while it grows.
struct Text(String);

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn table(&mut self, name: &str) {
        self.line(format_args!("\n[{name}]"));
    }

    /// A field; one that isn't known as a comment with an example and what it is.
    fn value(&mut self, field: &str, value: Option<String>, example: &str, what: &str) {
        match value {
            Some(value) => self.line(format_args!("{field} = {value}")),
            None => self.line(format_args!("# {field} = {example}   # {what}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::switch_word::Side;

    use super::*;
    use crate::policy::Policy;

    fn found() -> Found {
        let words =
            ["/usr/bin/lists", "--listen", "10.0.2.2:8080", "--peer=10.0.2.22:8080", "--say", "a \"b\""];
        Found {
            source: "a test".into(),
            command: words.map(str::to_owned).to_vec(),
            environment: [("LANG", "C"), ("NOTIFY_SOCKET", "/run/x"), ("HOST", "10.0.2.2")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            directory: Some("/var/lib/lists".into()),
            user: Some("nobody".into()),
            listens: vec!["10.0.2.2:8080".parse().unwrap()],
            ..Found::default()
        }
    }

    fn given() -> Given {
        Given {
            name: Some(Name::try_from("shop".to_owned()).unwrap()),
            vip: "10.77.1.1:8080".parse().ok(),
            primary_nat: "10.0.2.101".parse().ok(),
            shadow: "10.0.9.2:8080".parse().ok(),
            shadow_nat: "10.0.9.1".parse().ok(),
            cpu: "0.5".parse().ok(),
            memory: "64MiB".parse().ok(),
        }
    }

    #[test]
    fn with_all_that_is_needed_the_policy_holds() {
        let text = found().policy(&given());
        let wanted =
            Policy::parse("made.toml", &text).unwrap_or_else(|e| panic!("{e:?}\n{text}")).wanted().unwrap();
        let expected =
            ["/usr/bin/lists", "--listen", "10.0.9.2:8080", "--peer=10.0.2.22:8080", "--say", "a \"b\""];
        assert_eq!(wanted.program.command, expected, "the primary's address alone is replaced");
        assert_eq!(wanted.program.environment["HOST"], "10.0.9.2");
        assert!(!wanted.program.environment.contains_key("NOTIFY_SOCKET"));
        assert_eq!(wanted.empty, ["/run", "/tmp"].map(PathBuf::from));
        assert_eq!(wanted.limits.memory_bytes, 64 << 20);
    }

    #[test]
    fn an_ipv6_address_is_replaced_where_it_is_no_part_of_a_longer_one() {
        let words = [
            "/usr/bin/lists",
            "[2001:db8:2::2]:8080",
            "--at=2001:db8:2::2",
            "2001:db8:2::22",
            "http://[2001:db8:2::2]/",
        ];
        let found = Found {
            command: words.map(str::to_owned).to_vec(),
            listens: vec!["[2001:db8:2::2]:8080".parse().unwrap()],
            ..found()
        };
        let given = Given { primary_nat: "2001:db8:2::101".parse().ok(), ..given() };
        let text = found.policy(&given);
        let policy = Policy::parse("made.toml", &text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
        let command = policy.wanted().unwrap().program.command;
        let expected =
            ["/usr/bin/lists", "10.0.9.2:8080", "--at=10.0.9.2", "2001:db8:2::22", "http://10.0.9.2/"];
        assert_eq!(command, expected);
        assert_eq!(
            policy.services()[0].side(Side::Primary).unwrap().first().to_string(),
            "[2001:db8:2::2]:8080"
        );
    }

    #[test]
    fn what_is_not_known_is_a_comment_and_the_policy_says_what_is_missing() {
        let text = found().policy(&Given::default());
        assert!(text.contains("# vip = \"ADDRESS:PORT\"   # what clients talk to"), "{text}");
        assert!(text.contains("\n# cpu = 1.0   # cores; the primary isn't limited"), "{text}");
        assert!(text.contains("\naddress = \"10.0.2.2:8080\""), "{text}");
        assert!(Policy::parse("made.toml", &text).is_err());
    }

    #[test]
    fn each_order_that_is_offered_holds() {
        let text = found().policy(&given());
        assert!(include_str!("../../../policies/http.toml").contains(&format!("{ORDER}\n")));
        let offered = text.lines().position(|line| line.starts_with("# order = ")).unwrap();
        for order in ["connection", "client", "service"] {
            assert!(ORDER.contains(&format!("\"{order}\"")), "{order}");
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines[offered] = lines[offered][2..].replace("\"client\"   #", &format!("\"{order}\"   #"));
            let text = lines.join("\n");
            let policy = Policy::parse("made.toml", &text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
            assert_eq!(format!("{:?}", policy.order).to_lowercase(), order);
        }
    }

    #[test]
    fn folders_are_copied_whole_and_shared_ones_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, "").unwrap();
        let within = folder.path().join("in");
        let folders = folders_of(&[file, within, "/var/log/shop.log".into()]);
        assert_eq!(folders, [folder.path().to_owned(), "/var/log/shop.log".into()]);
    }

    #[test]
    fn what_it_needs_is_not_hidden() {
        let mut found = found();
        found.command.push("/run/shop.conf".into());
        assert_eq!(found.hidden(&[]), [PathBuf::from("/tmp")]);
        assert!(found.hidden(&["/tmp/data".into()]).is_empty());
    }
}
