//! Where a side's CPU, memory, I/O and network are read.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroU32,
    path::{Component, Path, PathBuf},
};

use reqwest::Url;
use serde::Deserialize;

/// Where a side's resources are read.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "ResourcesTable")]
pub enum Resources {
    /// A control group of this host.
    Cgroup(CgroupPath),
    /// A process of this host, with its descendants.
    Process(ProcessId),
    /// An endpoint in Prometheus' text format, usually of another host.
    Prometheus(Scrape),
}

/// A control group's path as /proc/PID/cgroup has it: absolute, and nothing in it leads upwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPath(PathBuf);

impl CgroupPath {
    /// The path below a hierarchy's mount point: without the leading `/`.
    pub fn relative(&self) -> &Path {
        self.0.strip_prefix("/").unwrap_or(&self.0)
    }

    pub(crate) fn parse(path: PathBuf) -> Result<Self, String> {
        let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        let shown = path.display();
        if path.starts_with("/sys/fs/cgroup") {
            let what = "`path` is the group's name below /sys/fs/cgroup and below the controller";
            Err(format!("{what}, as /proc/PID/cgroup has it: \"/system.slice/shop.service\""))
        } else if !plain || !path.is_absolute() {
            Err(format!("`{shown}` is no control group: write \"/system.slice/shop.service\", without `..`"))
        } else {
            Ok(Self(path))
        }
    }
}

/// Which process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessId {
    /// This one.
    Number(NonZeroU32),
    /// The one whose id stands in this file, looked up each time.
    File(PathBuf),
}

/// What is asked of a Prometheus endpoint.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// Where the text is.
    pub url: Url,
    /// Labels that a series must have, with these values.
    pub labels: BTreeMap<String, String>,
    /// Network devices that count; none: all but the loopback and virtual ones.
    pub interfaces: Vec<String>,
}

/// Kinds of sources.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum SourceKind {
    /// A control group of this host, v1 or v2: wants `path`.
    Cgroup,
    /// A process of this host and its descendants: wants `pid` or `pid_file`.
    Process,
    /// An endpoint of any host (node_exporter, cAdvisor, or the application's own): wants `url`.
    Prometheus,
}

/// Where a side's CPU, memory, I/O and network are read, every second. Without it they are missing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourcesTable {
    /// What is read.
    source: SourceKind,
    /// The control group, as /proc/PID/cgroup has it: `"/system.slice/shop.service"`.
    path: Option<PathBuf>,
    /// The process.
    pid: Option<NonZeroU32>,
    /// The file that has the process' id.
    pid_file: Option<PathBuf>,
    /// The endpoint: `"http://10.0.2.2:9100/metrics"`. HTTP alone.
    url: Option<String>,
    /// Labels that a series must have, with these values: `{ name = "shop" }` for cAdvisor.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The network devices that count; none: all but the loopback and virtual ones.
    #[serde(default)]
    interfaces: Vec<String>,
}

impl TryFrom<ResourcesTable> for Resources {
    type Error = String;

    fn try_from(table: ResourcesTable) -> Result<Self, String> {
        let ResourcesTable { source, path, pid, pid_file, url, labels, interfaces } = table;
        let given = [
            ("path", path.is_some(), SourceKind::Cgroup),
            ("pid", pid.is_some(), SourceKind::Process),
            ("pid_file", pid_file.is_some(), SourceKind::Process),
            ("url", url.is_some(), SourceKind::Prometheus),
            ("labels", !labels.is_empty(), SourceKind::Prometheus),
            ("interfaces", !interfaces.is_empty(), SourceKind::Prometheus),
        ];
        if let Some((field, _, of)) = given.iter().find(|(_, given, of)| *given && *of != source) {
            return Err(format!("`{field}` goes with the source {of}, not with {source}"));
        }
        match source {
            SourceKind::Cgroup => {
                CgroupPath::parse(path.ok_or("the source \"cgroup\" wants a `path`")?).map(Self::Cgroup)
            }
            SourceKind::Process => match (pid, pid_file) {
                (Some(pid), None) => Ok(Self::Process(ProcessId::Number(pid))),
                (None, Some(file)) if file.is_absolute() => Ok(Self::Process(ProcessId::File(file))),
                (None, Some(file)) => {
                    Err(format!("`pid_file` wants an absolute path, not {}", file.display()))
                }
                _ => Err("the source \"process\" wants either `pid` or `pid_file`".into()),
            },
            SourceKind::Prometheus => {
                let url = parse_url(&url.ok_or("the source \"prometheus\" wants a `url`")?)?;
                Ok(Self::Prometheus(Scrape { url, labels, interfaces }))
            }
        }
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)
        .map_err(|error| format!("`{text}` is no URL ({error}): write \"http://10.0.2.2:9100/metrics\""))?;
    if url.scheme() != "http" {
        return Err(format!("`url` is http://…, not {}://…: this client has no TLS", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("`url` can't have a user or a password: it is shown to whoever asks".into());
    }
    Ok(url)
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "\"cgroup\"",
            Self::Process => "\"process\"",
            Self::Prometheus => "\"prometheus\"",
        })
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.0.display()),
            Self::Process(ProcessId::Number(pid)) => write!(f, "process {pid}"),
            Self::Process(ProcessId::File(file)) => write!(f, "process in {}", file.display()),
            Self::Prometheus(scrape) => write!(f, "{}", scrape.url),
        }
    }
}
