//! What the host must have, whatever the policy.

use mirror_common::abi::{BYTES_A_FLOW, six};

use super::Line;

/// The oldest kernel that is supported: an LTS.
const KERNEL: (u32, u32) = (6, 12);
/// Numbers of capabilities (linux/capability.h) that the daemon uses.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// How to get them.
pub(super) const GRANT: &str = "run it as root, by deploy/mirror.service, or: \
     setcap cap_bpf,cap_net_admin,cap_perfmon+ep $(command -v mirror)";
/// Stands for CAP_BPF and CAP_PERFMON too.
const SYS_ADMIN: u32 = 21;

/// What was found on the host; an empty text where a file isn't there.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `/proc/self/status`.
    pub status: String,
    /// `/sys/kernel/realtime`.
    pub realtime: String,
    /// The pins lie on a bpf file system.
    pub bpffs: bool,
    /// The folder of the pins.
    pub pins: String,
    /// Why `/dev/net/tun` can't be opened for writing.
    pub tun: Option<String>,
    /// `/proc/sys/net/ipv4/ip_forward`.
    pub ip_forward: String,
    /// `/proc/sys/net/core/bpf_jit_enable`.
    pub jit: String,
    /// `/proc/sys/net/netfilter/nf_conntrack_count`.
    pub conntrack: String,
    /// The kernel side is in this binary.
    pub object: bool,
}

/// Judges all of it.
pub(super) fn judge(host: &Host) -> Vec<Line> {
    vec![
        kernel(&host.release),
        preemption(&host.version, &host.realtime),
        capabilities(&host.status),
        object(host.object),
        bpffs(host.bpffs, &host.pins),
        tun(host.tun.as_deref()),
        forwarding(&host.ip_forward),
        jit(&host.jit),
        conntrack(&host.conntrack),
    ]
}

fn kernel(release: &str) -> Line {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= KERNEL {
        return Line::ok("kernel", release);
    }
    let advice = format!(
        "boot Linux {}.{} or later (Debian: apt install -t backports linux-image-amd64)",
        KERNEL.0, KERNEL.1
    );
    Line::failure("kernel", format!("{release} is too old"), advice)
}

fn preemption(version: &str, realtime: &str) -> Line {
    if version.contains("PREEMPT_RT") || realtime.trim() == "1" {
        let found = "PREEMPT_RT: packets of one CPU may interrupt each other, and the datapath relies on that they don't";
        return Line::failure("preemption", found, "boot a kernel without PREEMPT_RT");
    }
    Line::ok("preemption", "packets of one CPU don't interrupt each other")
}

/// The effective set in `/proc/self/status`.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Which of the needed capabilities `/proc/self/status` doesn't show as effective.
pub(super) fn missing(status: &str) -> Vec<&'static str> {
    let set = effective(status);
    let bit = |number: u32| set >> number & 1 == 1;
    let has = |number: u32| bit(number) || (number > 32 && bit(SYS_ADMIN));
    NEEDED.iter().filter(|(number, _)| !has(*number)).map(|(_, name)| *name).collect()
}

fn capabilities(status: &str) -> Line {
    let missing = missing(status);
    if missing.is_empty() {
        return Line::ok("capabilities", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
    }
    Line::failure("capabilities", format!("without {}", missing.join(", ")), GRANT)
}

fn object(embedded: bool) -> Line {
    if embedded {
        return Line::ok("kernel side", "in this binary");
    }
    Line::failure("kernel side", "not in this binary", "cargo xtask build-ebpf && cargo build --release")
}

fn bpffs(mounted: bool, pins: &str) -> Line {
    if mounted {
        return Line::ok("bpf file system", format!("{pins} lies on one"));
    }
    Line::failure("bpf file system", format!("{pins} doesn't lie on one"), "mount -t bpf bpf /sys/fs/bpf")
}

fn tun(trouble: Option<&str>) -> Line {
    match trouble {
        None => Line::ok("/dev/net/tun", "can be opened"),
        Some(trouble) => {
            let advice = "modprobe tun; or, where its mode isn't the usual one: chmod 666 /dev/net/tun";
            Line::failure("/dev/net/tun", trouble, advice)
        }
    }
}

fn forwarding(value: &str) -> Line {
    match value.trim() {
        "1" => Line::ok("ip_forward", "on"),
        _ => Line::warning(
            "ip_forward",
            "off: `mirror run` switches it on if it may",
            "sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}

fn jit(value: &str) -> Line {
    match value.trim() {
        "0" => Line::warning("bpf_jit_enable", "off: slow", "sysctl -w net.core.bpf_jit_enable=1"),
        _ => Line::ok("bpf_jit_enable", "on"),
    }
}

fn conntrack(count: &str) -> Line {
    match count.trim() {
        "" => Line::ok("netfilter", "no connection tracking"),
        count => Line {
            advice: Some("filter in front of the gateway, or at the servers".into()),
            ..Line::ok(
                "netfilter",
                format!(
                    "tracks {count} connections of others: the application's packets pass it by, and rules don't see them"
                ),
            )
        },
    }
}

/// What a table of `flows` costs, of IPv6 clients where `has_six`, against what is free.
pub(super) fn memory(flows: u32, has_six: bool, meminfo: &str) -> Line {
    let bytes = BYTES_A_FLOW + if has_six { six::BYTES_A_FLOW } else { 0 };
    let wanted = u64::from(flows) * bytes as u64;
    let free = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(u64::MAX, |kib| kib * 1_024);
    let found = format!("{flows} flows take {} MiB", wanted >> 20);
    if wanted > free / 2 {
        return Line::warning(
            "memory",
            format!("{found}, of {} free", free >> 20),
            "a smaller `flows` in the policy",
        );
    }
    Line::ok("memory", found)
}

#[cfg(test)]
mod tests {
    use super::super::{Level, worst};
    use super::*;

    fn healthy() -> Host {
        Host {
            release: "6.12.57+deb13-amd64".into(),
            version: "#1 SMP PREEMPT_DYNAMIC Debian 6.12.57-1 (2025-11-05)".into(),
            status: "Name:\tmirror\nCapInh:\t0000000000000000\nCapEff:\t000000c000001000\n".into(),
            bpffs: true,
            pins: "/sys/fs/bpf/mirror".into(),
            ip_forward: "1\n".into(),
            jit: "1\n".into(),
            object: true,
            ..Host::default()
        }
    }

    fn only(host: Host, check: &str) -> Line {
        let lines = judge(&host);
        let mut bad: Vec<Line> = lines.into_iter().filter(|line| line.level != Level::Ok).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        let line = bad.remove(0);
        assert_eq!(line.check, check);
        assert!(line.advice.is_some(), "nothing to type: {line:?}");
        line
    }

    #[test]
    fn a_healthy_host_with_three_capabilities_is_fine() {
        let lines = judge(&healthy());
        assert_eq!(worst(&lines), Level::Ok, "{lines:?}");
    }

    #[test]
    fn old_and_realtime_kernels_are_refused() {
        let old = only(Host { release: "6.1.0-41-amd64".into(), ..healthy() }, "kernel");
        assert_eq!(old.level, Level::Failure);
        assert_eq!(kernel("7.0.0-rc1").level, Level::Ok);
        assert_eq!(kernel("5.15.0").level, Level::Failure);
        assert_eq!(kernel("6.9").level, Level::Failure);
        let version = "#1 SMP PREEMPT_RT Debian 6.12.57-1 (2025-11-05)".to_owned();
        assert_eq!(only(Host { version, ..healthy() }, "preemption").level, Level::Failure);
        assert_eq!(only(Host { realtime: "1\n".into(), ..healthy() }, "preemption").level, Level::Failure);
    }

    #[test]
    fn a_missing_capability_is_named() {
        let status = "CapEff:\t0000004000001000\n".to_owned();
        let line = only(Host { status, ..healthy() }, "capabilities");
        assert_eq!(line.found, "without CAP_BPF");
        let status = "CapEff:\t0000000000201000\n".to_owned();
        assert_eq!(worst(&judge(&Host { status, ..healthy() })), Level::Ok, "CAP_SYS_ADMIN stands for both");
        let line = only(Host { status: String::new(), ..healthy() }, "capabilities");
        assert_eq!(line.found, "without CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF");
    }

    #[test]
    fn the_unit_file_grants_what_is_needed_and_no_more() {
        let unit = include_str!("../../../deploy/mirror.service");
        for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
            let granted = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            let mut granted: Vec<&str> = granted.split_whitespace().collect();
            let mut needed = NEEDED.map(|(_, name)| name);
            granted.sort_unstable();
            needed.sort_unstable();
            assert_eq!(granted, needed);
        }
    }

    #[test]
    fn what_is_missing_is_said_one_by_one() {
        only(Host { object: false, ..healthy() }, "kernel side");
        only(Host { bpffs: false, ..healthy() }, "bpf file system");
        only(Host { tun: Some("No such file or directory".into()), ..healthy() }, "/dev/net/tun");
        let line = only(Host { ip_forward: "0\n".into(), ..healthy() }, "ip_forward");
        assert_eq!(line.level, Level::Warning, "the daemon may switch it on");
        only(Host { jit: "0\n".into(), ..healthy() }, "bpf_jit_enable");
        assert_eq!(worst(&judge(&Host { conntrack: "17\n".into(), ..healthy() })), Level::Ok, "a hint");
    }

    #[test]
    fn a_table_that_eats_the_host_is_a_warning() {
        let meminfo = "MemTotal:        2048000 kB\nMemAvailable:    1024000 kB\n";
        assert_eq!(memory(65_536, true, meminfo).level, Level::Ok);
        assert_eq!(memory(4_194_304, false, meminfo).level, Level::Warning);
        assert_eq!(memory(4_194_304, true, "").level, Level::Ok);
    }
}
