//! Captures of a whole run, for the checker of traces.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use lab::{
    capture::{Capture, CaptureSpec},
    net::{Host, Namespace, SERVICE_PORT, VIP},
};
use oracle::trace::{Expected, Findings, Trace, check, read};

use crate::Scene;

/// Packets that each capture must have seen at least.
const LEAST_PACKETS: usize = 2_000;

/// Bytes that are kept of a packet where no link makes super-packets: all of it, and the kernel's buffer has room for many.
const WHOLE: u32 = 2_048;

/// Captures of what client and servers say and hear.
pub struct Captures(Vec<(PathBuf, Capture)>);

impl Captures {
    /// On the hosts themselves.
    ///
    /// # Errors
    /// If tcpdump doesn't start.
    pub fn on_hosts(scene: &Scene) -> Result<Self> {
        Self::start(scene, 0, |host| (scene.lab.host(host), "eth0"))
    }

    /// At the gateway's end of impaired links: what it got and what it sent, whatever becomes of that on the way.
    ///
    /// # Errors
    /// If a link isn't impaired, or tcpdump doesn't start.
    pub fn at_gateway(scene: &Scene) -> Result<Self> {
        Self::start(scene, WHOLE, |host| (scene.lab.wire_namespace(host), "near"))
    }

    fn start(scene: &Scene, snaplen: u32, place: impl Fn(Host) -> (Namespace, &'static str)) -> Result<Self> {
        let start = |host: Host| {
            let (namespace, device) = place(host);
            let spec = CaptureSpec {
                device: device.into(),
                snaplen,
                // Not what the daemon's hook and the tests themselves ask of the servers.
                filter: "tcp and not host 10.0.2.1 and not host 10.0.3.1".into(),
            };
            let path = scene.gateway.folder().join(format!("{host}.pcap"));
            Ok((path.clone(), Capture::start(&namespace, &path, &spec)?))
        };
        Ok(Self(Host::ENDS.into_iter().map(start).collect::<Result<_>>()?))
    }

    /// Ends them.
    ///
    /// # Errors
    /// If one has missed something, or can't be read.
    pub fn stop(self) -> Result<Trace> {
        let mut hosts = Vec::new();
        for (path, capture) in self.0 {
            let captured = capture.stop()?;
            ensure!(captured.dropped == 0, "{} packets didn't fit into {}", captured.dropped, path.display());
            hosts.push(read(&path)?);
        }
        let [client, primary, shadow] = hosts.try_into().ok().context("three hosts")?;
        Ok(Trace { client, servers: [primary, shadow] })
    }
}

/// What was found in a trace; `clean`: nothing was lost on the way, and no server died.
///
/// # Errors
/// If a rule was broken.
pub fn judged(trace: &Trace, clean: bool) -> Result<Findings> {
    let service = std::net::SocketAddrV4::new(VIP, SERVICE_PORT);
    let found = check(trace, service, Expected { least_packets: LEAST_PACKETS, clean });
    ensure!(
        found.violations.is_empty(),
        "{} violations, the first: {:#?}",
        found.violations.len(),
        &found.violations[..found.violations.len().min(20)]
    );
    Ok(found)
}
