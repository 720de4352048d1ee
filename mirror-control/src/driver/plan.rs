//! What a shadow is to be, and the plan that makes it: immutable data that an executor carries out without choices.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::Limits;

/// What is run, as whom and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its working directory.
    pub directory: PathBuf,
    /// The user that it runs as, by name.
    pub user: String,
    /// Files that it may have open, where that is limited by the plan.
    pub open_files: Option<u64>,
}

/// How an instance is asked whether it serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// `GET` of this path answers 200 to 399.
    Http(String),
    /// A connection is taken.
    Tcp,
    /// A DNS query for the root's name servers is answered, by whatever but a failure of the server's.
    Dns,
}

/// A shadow as the policy wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The application.
    pub app: String,
    /// Where it is to serve.
    pub address: SocketAddrV4,
    /// The gateway's address that its requests come from.
    pub gateway: Ipv4Addr,
    /// What is run.
    pub program: Program,
    /// Files and folders that it gets a copy of, in the place of the original.
    pub copies: Vec<PathBuf>,
    /// Folders that it finds empty.
    pub empty: Vec<PathBuf>,
    /// Its size.
    pub limits: Limits,
    /// Addresses that it may talk to beyond the gateway.
    pub egress: Vec<Ipv4Addr>,
    /// How it is asked whether it serves.
    pub check: Check,
    /// How long it may take until it does, in milliseconds.
    pub deadline_ms: u64,
    /// The gateway takes its packets up at XDP.
    pub xdp: bool,
}

/// A control group with limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name below the root of each hierarchy.
    pub name: String,
    /// What its members may use together.
    pub limits: Limits,
}

/// A pair of devices from the gateway's host into the instance's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The namespace's name.
    pub namespace: String,
    /// The device at the gateway's end.
    pub device: String,
    /// The host's own address on the link: what the gateway's legs don't use.
    pub host: Ipv4Addr,
    /// The gateway's address that legs come from.
    pub gateway: Ipv4Addr,
    /// The instance's address.
    pub address: Ipv4Addr,
    /// Checksums are filled in by the instance's end: XDP at the gateway's end would forward them unfinished.
    pub xdp: bool,
}

/// Routes out of the instance's namespace, which has no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// The namespace's name.
    pub namespace: String,
    /// The gateway's address on the link.
    pub via: Ipv4Addr,
    /// Where to.
    pub to: Vec<Ipv4Addr>,
}

/// A file or folder of the instance's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCopy {
    /// The original, and the place where the instance finds its own.
    pub at: PathBuf,
    /// Where its own is kept.
    pub own: PathBuf,
}

/// The start of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// What is run.
    pub program: Program,
    /// The network namespace that it runs in.
    pub namespace: String,
    /// The control group that it runs in.
    pub group: String,
    /// What it finds in the place of the originals. All else is read-only to it.
    pub own: Vec<OwnCopy>,
    /// The file that what it says is appended to.
    pub log: PathBuf,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Makes a control group and sets its limits.
    Group(Group),
    /// Makes a network namespace of this name.
    Namespace(String),
    /// Joins the namespace to the gateway's host.
    Link(Link),
    /// Lets it talk to these, and to nobody else.
    Egress(Egress),
    /// Copies a file or a folder.
    Copy(OwnCopy),
    /// Makes an empty folder, of the owner and mode of the original.
    Empty(OwnCopy),
    /// Starts the program.
    Start(Start),
    /// Waits until it serves.
    Check {
        /// Where.
        address: SocketAddrV4,
        /// How it is asked.
        check: Check,
        /// How long at most, in milliseconds.
        deadline_ms: u64,
    },
}

impl Step {
    /// A word for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Group(_) => "group",
            Self::Namespace(_) => "namespace",
            Self::Link(_) => "link",
            Self::Egress(_) => "egress",
            Self::Copy(_) => "copy",
            Self::Empty(_) => "empty",
            Self::Start(_) => "start",
            Self::Check { .. } => "check",
        }
    }
}

/// Everything that is done for an instance, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The application.
    pub app: String,
    /// Name of the driver that it is for.
    pub driver: String,
    /// Where the instance will serve.
    pub address: SocketAddrV4,
    /// What is done.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The control group that it makes.
    pub fn group(&self) -> Option<&Group> {
        self.steps.iter().find_map(|step| match step {
            Step::Group(group) => Some(group),
            _ => None,
        })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        for step in &mut self.steps {
            if let Step::Group(group) = step {
                group.limits = limits;
            }
        }
        self
    }

    /// Whether another plan makes the same instance; its size may differ, since that is scaled while it runs.
    pub fn makes_the_same(&self, other: &Self) -> bool {
        match other.group() {
            Some(group) => self.clone().with_limits(group.limits) == *other,
            None => self == other,
        }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.memory_bytes as f64 / f64::from(1 << 20);
        write!(f, "{} cores, {mib:.0} MiB", f64::from(self.cpu_millicores) / 1e3)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "control group {}: {}", group.name, group.limits),
            Self::Namespace(name) => write!(f, "network namespace {name}"),
            Self::Link(link) => write!(
                f,
                "link {} ({} for legs, {} for the host) to {}{}",
                link.device,
                link.gateway,
                link.host,
                link.address,
                if link.xdp { ", ready for XDP" } else { "" }
            ),
            Self::Egress(egress) if egress.to.is_empty() => write!(f, "egress to nobody: no default route"),
            Self::Egress(egress) => {
                let to: Vec<String> = egress.to.iter().map(ToString::to_string).collect();
                write!(f, "egress to {} alone: no default route", to.join(", "))
            }
            Self::Copy(copy) => write!(f, "copy of {}", copy.at.display()),
            Self::Empty(copy) => write!(f, "empty folder for {}", copy.at.display()),
            Self::Start(start) => {
                write!(f, "start as {}: {}", start.program.user, start.program.command.join(" "))
            }
            Self::Check { address, check: Check::Http(path), deadline_ms } => {
                write!(
                    f,
                    "wait until http://{address}{path} answers, {} s at most",
                    *deadline_ms as f64 / 1e3
                )
            }
            Self::Check { address, check: Check::Tcp, deadline_ms } => {
                write!(f, "wait until {address} takes connections, {} s at most", *deadline_ms as f64 / 1e3)
            }
            Self::Check { address, check: Check::Dns, deadline_ms } => {
                write!(f, "wait until {address} answers queries, {} s at most", *deadline_ms as f64 / 1e3)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(cpu_millicores: u32) -> Plan {
        let limits = Limits { cpu_millicores, memory_bytes: 64 << 20 };
        let group = Step::Group(Group { name: "mirror-shop".into(), limits });
        let steps = vec![group, Step::Namespace("mirror-shop".into())];
        Plan { app: "shop".into(), driver: "process".into(), address: "10.0.3.2:80".parse().unwrap(), steps }
    }

    #[test]
    fn a_plan_of_another_size_makes_the_same_and_any_other_difference_does_not() {
        assert!(plan(500).makes_the_same(&plan(2_000)));
        let mut other = plan(500);
        other.steps[1] = Step::Namespace("mirror-other".into());
        assert!(!plan(500).makes_the_same(&other));
        assert_eq!(plan(500).with_limits(plan(1_500).group().unwrap().limits), plan(1_500));
    }

    #[test]
    fn steps_are_said_in_words() {
        assert_eq!(plan(1_500).steps[0].to_string(), "control group mirror-shop: 1.5 cores, 64 MiB");
        let egress = |to: Vec<Ipv4Addr>| {
            Step::Egress(Egress { namespace: "n".into(), via: Ipv4Addr::LOCALHOST, to }).to_string()
        };
        assert!(egress(vec![]).contains("nobody"));
        assert!(egress(vec![Ipv4Addr::new(10, 9, 9, 9)]).contains("10.9.9.9 alone"));
    }
}
