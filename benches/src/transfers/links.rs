//! What lies between the hosts.

use std::path::Path;

use anyhow::{Context, Result};
use lab::{
    net::{Host, Lab, LinkSpec},
    programs::ListsServer,
    wire::{Fault, Impairment},
};

/// The links of one lab. By default good ones that nothing limits.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// As in the table.
    pub(super) name: String,
    /// By host, client first; none: plain cables, with all that the hosts leave to their cards.
    faults: Option<[Fault; 3]>,
}

impl Links {
    /// Whether a program forwards their frames.
    pub(super) fn impaired(&self) -> bool {
        self.faults.is_some()
    }
}

/// Plain cables; then each distance of the shadow with each loss, on links that carry `mbits`, the client `client_ms` away.
pub(super) fn all(mbits: u64, client_ms: u64) -> Vec<Links> {
    let mut all = vec![Links { name: "plain cables".into(), faults: None }];
    for shadow_ms in [0, 20, 80] {
        let away = [client_ms, 0, shadow_ms];
        let faults = |lossy: &[Host], loss| {
            std::array::from_fn(|n| Fault {
                delay_us: away[n] * 500,
                mbits,
                loss: if lossy.contains(&Host::ENDS[n]) { loss } else { 0.0 },
                ..Fault::default()
            })
        };
        all.push(Links { name: format!("shadow {shadow_ms} ms, no loss"), faults: Some(faults(&[], 0.0)) });
        for percent in [1, 5] {
            let places: [(&str, &[Host]); 3] =
                [("the client's", &[Host::Client]), ("the shadow's", &[Host::Shadow]), ("all", &Host::ENDS)];
            for (place, lossy) in places {
                all.push(Links {
                    name: format!("shadow {shadow_ms} ms, {percent} % on {place}"),
                    faults: Some(faults(lossy, f64::from(percent) / 100.0)),
                });
            }
        }
    }
    all
}

/// What a host controls congestion by.
const CONGESTION: &str = "ipv4/tcp_congestion_control";
const HOW_TO_ALLOW: &str = "sysctl -w net.ipv4.tcp_allowed_congestion_control=\"reno bbr cubic\"";

/// A lab with both servers.
pub(super) struct Site {
    /// The hosts.
    pub(super) lab: Lab,
    impaired: bool,
    _servers: [ListsServer; 2],
}

impl Site {
    /// Builds it: with links whose frames a program forwards, or with plain cables.
    ///
    /// # Errors
    /// If something can't be started.
    pub(super) fn build(impaired: bool, hook: &str, congestion: Option<&str>) -> Result<Self> {
        let mut lab = Lab::builder().forwarding(true).xdp_ready(hook == "xdp");
        for host in Host::ENDS.into_iter().filter(|_| impaired) {
            lab = lab.link(host, LinkSpec::wire(Impairment::default()));
        }
        let lab = lab.up()?;
        for host in Host::ENDS {
            // What one connection has learned of the way must not slow the next one down.
            lab.host(host).sysctl("ipv4/tcp_no_metrics_save", "1")?;
            if let Some(name) = congestion {
                let help =
                    || format!("a namespace may have {name} only if this host allows it: {HOW_TO_ALLOW}");
                lab.host(host).sysctl(CONGESTION, name).with_context(help)?;
            }
        }
        let servers = [Host::Primary, Host::Shadow].map(|host| ListsServer::on(&lab, host, &["--volatile"]));
        let [primary, shadow] = servers;
        Ok(Self { lab, impaired, _servers: [primary?, shadow?] })
    }

    /// What its hosts control congestion by.
    ///
    /// # Errors
    /// If their kernel doesn't say.
    pub(super) fn congestion(&self) -> Result<String> {
        let read = || std::fs::read_to_string(Path::new("/proc/sys/net").join(CONGESTION));
        Ok(self.lab.host(Host::Client).run(read)??.trim().to_owned())
    }

    /// From now on the links are like this.
    ///
    /// # Errors
    /// If this lab's can't be.
    pub(super) fn set(&self, links: &Links) -> Result<()> {
        let faults = links.faults.unwrap_or_default();
        for (host, fault) in Host::ENDS.into_iter().zip(faults).filter(|_| self.impaired) {
            self.lab.wire(host)?.set(Impairment::both(fault, 0));
        }
        Ok(())
    }
}
