//! The plan of an instance: names, places and steps, from what the policy wants and nothing else.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use mirror_control::driver::{Egress, Group, Link, OwnCopy, Plan, Start, Step, Wanted};

use super::NAME;

/// The host's own address on each link. Link-local, so that it is nobody else's; the same on every link, since each link's
/// route leads to one instance alone.
const HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);

/// Plans an instance whose record is in a folder of `state`, an absolute path.
///
/// Names have the application's name, and a tag of both it and the folder: two gateways on one kernel may serve applications
/// of one name. A device's name has the tag alone: 15 bytes are all that it may have.
pub(super) fn plan(wanted: &Wanted, state: &Path) -> Plan {
    let folder = state.join(&wanted.app);
    let tag = format!("{:08x}", crc32fast::hash(folder.as_os_str().as_encoded_bytes()));
    let name = format!("mirror-{}-{tag}", wanted.app);
    let (copies, empty) = own_places(wanted, &folder);
    let link = Link {
        namespace: name.clone(),
        device: format!("mirror-{tag}"),
        host: HOST,
        gateway: wanted.gateway,
        address: *wanted.address.ip(),
        xdp: wanted.xdp,
    };
    let start = Start {
        program: wanted.program.clone(),
        namespace: name.clone(),
        group: name.clone(),
        own: copies.iter().chain(&empty).cloned().collect(),
        log: folder.join("log"),
    };
    let mut steps = vec![
        Step::Group(Group { name: name.clone(), limits: wanted.limits }),
        Step::Namespace(name.clone()),
        Step::Link(link),
        Step::Egress(Egress { namespace: name, via: wanted.gateway, to: wanted.egress.clone() }),
    ];
    steps.extend(copies.into_iter().map(Step::Copy));
    steps.extend(empty.into_iter().map(Step::Empty));
    steps.push(Step::Start(start));
    let (address, deadline_ms) = (wanted.address, wanted.deadline_ms);
    steps.push(Step::Check { address, check: wanted.check.clone(), deadline_ms });
    Plan { app: wanted.app.clone(), driver: NAME.into(), address, steps }
}

/// Copies and empty folders, each with a place of its own.
fn own_places(wanted: &Wanted, folder: &Path) -> (Vec<OwnCopy>, Vec<OwnCopy>) {
    let own = |(n, at): (usize, &PathBuf)| OwnCopy { at: at.clone(), own: folder.join(format!("files/{n}")) };
    let mut all = wanted.copies.iter().chain(&wanted.empty).enumerate().map(own);
    (all.by_ref().take(wanted.copies.len()).collect(), all.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn wanted() -> Wanted {
        let text = include_str!("../../../../policies/provisioned.toml");
        Policy::parse("provisioned.toml", text).unwrap().wanted().unwrap()
    }

    #[test]
    fn a_plan_reads_like_this() {
        let plan = plan(&wanted(), Path::new("/var/lib/mirror"));
        let lines: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "control group mirror-shop-ff13a8a4: 1.5 cores, 512 MiB",
                "network namespace mirror-shop-ff13a8a4",
                "link mirror-ff13a8a4 (10.0.9.1 for legs, 169.254.77.1 for the host) to 10.0.9.2",
                "egress to nobody: no default route",
                "copy of /var/lib/lists",
                "empty folder for /run",
                "empty folder for /tmp",
                "start as nobody: /usr/local/bin/lists --listen 10.0.9.2:8080 --file /var/lib/lists/shop",
                "wait until http://10.0.9.2:8080/ping answers, 10 s at most",
            ]
        );
        let Some(Step::Start(start)) = plan.steps.iter().find(|step| step.name() == "start") else {
            panic!()
        };
        let own: Vec<_> = start.own.iter().map(|own| own.own.to_str().unwrap()).collect();
        assert_eq!(own, ["0", "1", "2"].map(|n| format!("/var/lib/mirror/shop/files/{n}")));
    }

    #[test]
    fn names_fit_the_kernel_and_differ_between_state_folders() {
        let long = Wanted { app: "a".repeat(32), ..wanted() };
        let device = |plan: &Plan| match &plan.steps[2] {
            Step::Link(link) => link.device.clone(),
            step => panic!("{step}"),
        };
        let (one, other) = (plan(&long, Path::new("/a")), plan(&long, Path::new("/b")));
        assert_eq!(device(&one).len(), 15);
        assert_ne!(device(&one), device(&other));
        assert_eq!(one, plan(&long, Path::new("/a")), "the same wish gives the same plan");
    }
}
