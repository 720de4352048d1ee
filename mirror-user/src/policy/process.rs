//! The section `[shadow.process]`: a shadow that is provisioned on the gateway's own host.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use mirror_common::switch_word::Side;
use mirror_control::driver::{Check, Limits, Program, Wanted};
use serde::Deserialize;

use super::{Hook, Nat, Policy, defaults, duration};

/// Addresses in an egress list, copies and empty folders at most.
const MOST: usize = 64;

/// A second instance of the primary's program: `mirror provision` starts it on the gateway's host, in a network namespace and
/// a control group of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The program, by its absolute path, and its arguments. It must listen on the shadow's address.
    pub command: Command,
    /// Its whole environment: nothing is inherited.
    #[serde(default)]
    pub environment: Environment,
    /// Its working directory.
    #[serde(default = "defaults::directory")]
    pub directory: Place,
    /// The user that it runs as.
    pub user: String,
    /// Files and folders that it gets a copy of, each in the place of the original. All else is read-only to it.
    #[serde(default)]
    pub copy: Vec<Place>,
    /// Folders that it finds empty, and may write to.
    #[serde(default)]
    pub empty: Vec<Place>,
    /// Processor time that it may use.
    pub cpu: Cores,
    /// Memory that it may use.
    pub memory: Bytes,
    /// Files that it may have open; none: as many as who provisions.
    pub open_files: Option<u64>,
    /// Addresses that it may talk to beyond the gateway. It has routes to these alone; that they are forwarded, and find
    /// their way back, is the gateway host's matter.
    #[serde(default)]
    pub egress: Vec<Ipv4Addr>,
    /// How it is asked whether it serves.
    #[serde(default)]
    pub health: Health,
    /// How long it may take until it serves.
    #[serde(default = "defaults::health_deadline", deserialize_with = "duration")]
    pub health_deadline: Duration,
}

/// A list of strings, the first an absolute path.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "Vec<String>")]
pub struct Command(Vec<String>);

impl TryFrom<Vec<String>> for Command {
    type Error = String;

    fn try_from(words: Vec<String>) -> Result<Self, String> {
        match words.first() {
            None => Err("a command has at least a program".into()),
            Some(program) if !program.starts_with('/') => Err(format!(
                "the program `{program}` must be named by its absolute path; what does `command -v {program}` say?"
            )),
            Some(_) if words.iter().any(|word| word.contains('\0')) => {
                Err("a command's words can't hold a zero byte".into())
            }
            Some(_) => Ok(Self(words)),
        }
    }
}

/// A table of strings.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct Environment(BTreeMap<String, String>);

impl TryFrom<BTreeMap<String, String>> for Environment {
    type Error = String;

    fn try_from(variables: BTreeMap<String, String>) -> Result<Self, String> {
        for (name, value) in &variables {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("`{name}` can't be a variable of an environment"));
            }
        }
        Ok(Self(variables))
    }
}

/// An absolute path without `..`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
pub struct Place(PathBuf);

impl Place {
    /// `/`.
    pub(super) fn root() -> Self {
        Self("/".into())
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path: PathBuf = Path::new(&text).components().collect();
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if path.is_absolute() && plain && !text.contains('\0') {
            Ok(Self(path))
        } else {
            Err(format!("`{text}` must be an absolute path, without `..`"))
        }
    }
}

/// A number of cores from 0.05 to 1024, as `1.5`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "f64")]
pub struct Cores(u32);

impl TryFrom<f64> for Cores {
    type Error = String;

    fn try_from(cores: f64) -> Result<Self, String> {
        if (0.05..=1024.0).contains(&cores) {
            Ok(Self((cores * 1e3).round() as u32))
        } else {
            Err(format!("{cores} is no number of cores from 0.05 to 1024"))
        }
    }
}

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cores: f64 = text.parse().map_err(|_| format!("`{text}` is no number of cores, as `1.5`"))?;
        cores.try_into()
    }
}

impl Cores {
    /// Thousandths of a core.
    pub fn millicores(self) -> u32 {
        self.0
    }
}

/// A size from 4 MiB to 64 TiB, as `"512MiB"` or `"2GiB"`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct Bytes(u64);

impl Bytes {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "MiB" => Some(20),
            "GiB" => Some(30),
            "TiB" => Some(40),
            _ => None,
        };
        let number = number.parse::<u64>().ok();
        let bytes = number.zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
        match bytes {
            Some(bytes) if (4 << 20..=64 << 40).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(format!(
                "`{text}` is no size from 4MiB to 64TiB; write a number and MiB, GiB or TiB, as in \"512MiB\""
            )),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

/// `"tcp"`: a connection is taken. `"/PATH"`: a GET of it over HTTP answers 200 to 399.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub enum Health {
    /// A connection is taken.
    #[default]
    Tcp,
    /// A path answers.
    Http(String),
}

impl TryFrom<String> for Health {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        match text.as_str() {
            "tcp" => Ok(Self::Tcp),
            path if path.starts_with('/') && plain => Ok(Self::Http(text)),
            _ => Err(format!("`{text}` is neither \"tcp\" nor a path, as in \"/health\"")),
        }
    }
}

impl Process {
    /// Says what doesn't hold between fields, each right by itself.
    pub(super) fn fault(&self) -> Option<String> {
        let places: Vec<&Place> = self.copy.iter().chain(&self.empty).collect();
        if places.len() > MOST || self.egress.len() > MOST {
            return Some(format!("there are more than {MOST} places or addresses"));
        }
        for (n, place) in places.iter().enumerate() {
            let shown = place.path().display();
            let system = ["/", "/proc", "/sys", "/dev"];
            if system.iter().any(|system| place.path() == Path::new(system)) {
                return Some(format!("{shown} can't be copied or empty"));
            }
            let nested =
                places.iter().enumerate().find(|(m, other)| *m != n && place.0.starts_with(&other.0));
            if let Some((_, other)) = nested {
                return Some(format!("{shown} lies within {}: name one of the two", other.path().display()));
            }
        }
        if self.user.is_empty() {
            return Some("the user has no name".into());
        }
        (self.open_files == Some(0)).then(|| "a program without an open file can't run".into())
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        Limits { cpu_millicores: self.cpu.millicores(), memory_bytes: self.memory.get() }
    }
}

impl Policy {
    /// The shadow that this policy wants provisioned, if it wants one.
    pub fn wanted(&self) -> Option<Wanted> {
        let process = self.process()?;
        let shadow = self.services.first()?.side(Side::Shadow)?;
        // The policy holds no provisioned shadow of IPv6, nor of several services.
        let (SocketAddr::V4(address), Nat::Own(IpAddr::V4(gateway))) = (shadow.first(), shadow.nat()) else {
            return None;
        };
        let paths = |places: &[Place]| places.iter().map(|place| place.0.clone()).collect();
        Some(Wanted {
            app: self.name.as_str().to_owned(),
            address,
            gateway,
            program: Program {
                command: process.command.0.clone(),
                environment: process.environment.0.clone(),
                directory: process.directory.0.clone(),
                user: process.user.clone(),
                open_files: process.open_files,
            },
            copies: paths(&process.copy),
            empty: paths(&process.empty),
            limits: process.limits(),
            egress: process.egress.clone(),
            check: match &process.health {
                Health::Tcp => Check::Tcp,
                Health::Http(path) => Check::Http(path.clone()),
            },
            deadline_ms: process.health_deadline.as_millis() as u64,
            xdp: self.hook == Hook::Xdp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = include_str!("../../../policies/provisioned.toml");

    #[test]
    fn the_example_is_what_it_says() {
        let wanted = Policy::parse("provisioned.toml", GOOD).unwrap().wanted().unwrap();
        assert_eq!(wanted.limits, Limits { cpu_millicores: 1_500, memory_bytes: 512 << 20 });
        assert_eq!(wanted.check, Check::Http("/ping".into()));
        assert_eq!(wanted.deadline_ms, 10_000);
        assert_eq!(wanted.copies, [PathBuf::from("/var/lib/lists")]);
        assert_eq!(wanted.program.environment["LANG"], "C.UTF-8");
        assert!(!wanted.xdp);
    }

    #[test]
    fn a_policy_without_the_section_wants_nothing_provisioned() {
        let policy = Policy::parse("http.toml", include_str!("../../../policies/http.toml")).unwrap();
        assert_eq!(policy.wanted(), None);
    }

    #[test]
    fn sizes_have_their_unit_and_their_bounds() {
        assert_eq!("512MiB".parse::<Bytes>().unwrap().get(), 512 << 20);
        assert_eq!("64 TiB".parse::<Bytes>().unwrap().get(), 64 << 40);
        for wrong in ["512", "512MB", "3MiB", "65TiB", "-1GiB", "1.5GiB", "", "99999999999999999999GiB"] {
            assert!(wrong.parse::<Bytes>().is_err(), "{wrong}");
        }
        assert_eq!("1.5".parse::<Cores>().unwrap().millicores(), 1_500);
        for wrong in ["0", "0.049", "1025", "NaN", "inf", "two"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn places_are_absolute_and_do_not_overlap() {
        for wrong in ["var", "/var/../etc", "", "./x"] {
            assert!(Place::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
        let with = |copy: &str, empty: &str| {
            let text = GOOD
                .replace("copy = [\"/var/lib/lists\"]", &format!("copy = [{copy}]"))
                .replace("empty = [\"/run\", \"/tmp\"]", &format!("empty = [{empty}]"));
            Policy::parse("x.toml", &text).map(drop)
        };
        assert!(with("\"/var/lib/lists\"", "\"/run\"").is_ok());
        assert!(with("\"/var/lib/lists/\"", "\"/var/lib\"").is_err());
        assert!(with("\"/srv\", \"/srv\"", "").is_err());
        assert!(with("\"/\"", "").is_err());
    }

    #[test]
    fn commands_and_checks_are_refused_with_a_reason() {
        let refused = Command::try_from(vec!["lists".to_owned()]).unwrap_err();
        assert!(refused.contains("command -v lists"), "{refused}");
        assert!(Command::try_from(vec![]).is_err());
        assert!(Command::try_from(vec!["/bin/a".to_owned(), "b\0".to_owned()]).is_err());
        assert_eq!(Health::try_from("tcp".to_owned()).unwrap(), Health::Tcp);
        assert!(Health::try_from("udp".to_owned()).is_err());
        assert!(Health::try_from("/a b".to_owned()).is_err());
    }
}
