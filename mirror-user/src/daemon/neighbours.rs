//! Keeps the servers' hardware addresses known. A copy of a packet can't wait for an answer to ARP, or to a neighbour
//! solicitation: it would be lost, and its bytes owed until the client sends them again.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;

use crate::{
    network::{Neighbour, Network, asks},
    policy::Policy,
    state::State,
};

/// The kernel keeps them by itself from then on; links that went down and entries that were flushed are seen this late.
const AGAIN: Duration = Duration::from_secs(1);

/// What a look at a server led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing to do.
    Kept,
    /// The kernel was asked to resolve it and to keep it so.
    Asked,
    /// The same, and the last attempt was in vain.
    Failed,
}

/// Has the kernel keep these servers' hardware addresses no more. Returns how many it kept; what can't be let go is said, and
/// hinders nothing: it costs the kernel a question now and then.
pub(crate) fn let_go(servers: impl IntoIterator<Item = IpAddr>) -> Result<usize> {
    let network = Network::open()?;
    let mut gone = 0;
    for address in servers {
        match network.route(address).and_then(|route| network.let_go(&route)) {
            Ok(kept) => gone += usize::from(kept),
            Err(error) => eprintln!("mirror: {error:#}"),
        }
    }
    Ok(gone)
}

/// Looks after the servers' neighbours.
pub(super) struct Keeper {
    network: Network,
    /// Whose each is, in words.
    servers: Vec<(String, IpAddr)>,
}

impl Keeper {
    /// A keeper for both sides' servers; it asks for each at once.
    pub(super) fn new(network: Network, policy: &Policy) -> Self {
        let mut servers: Vec<_> = policy.servers().map(|server| (server.whose(), server.at.ip())).collect();
        servers.dedup();
        let keeper = Self { network, servers };
        for server in policy.servers() {
            let (name, address) = (server.whose(), server.at.ip());
            if let Err(error) = keeper.look(address) {
                tracing::warn!("the way to the {name}: {error:#}");
            }
            if keeper
                .network
                .route(address)
                .is_ok_and(|route| route.source.is_some() && route.source == server.end.nat().own())
            {
                tracing::warn!(
                    "this host's own packets to the {name} come from its `nat` address: no answer to the join hook or a \
                     health check comes back; `mirror doctor` says what to type"
                );
            }
        }
        keeper
    }

    fn look(&self, address: IpAddr) -> Result<Look> {
        let route = self.network.route(address)?;
        let look = match self.network.neighbour(&route)? {
            Neighbour::Kept => return Ok(Look::Kept),
            Neighbour::Failed => Look::Failed,
            Neighbour::Unknown | Neighbour::Asked | Neighbour::Known => Look::Asked,
        };
        self.network.keep_resolved(&route)?;
        Ok(look)
    }

    /// Looks again and again; a change for the worse, and back, is said once.
    pub(super) fn run(self, state: &Arc<Mutex<State>>) {
        let mut troubled = vec![false; self.servers.len()];
        loop {
            std::thread::sleep(AGAIN);
            for ((name, address), troubled) in self.servers.iter().zip(&mut troubled) {
                let trouble = match self.look(*address) {
                    Ok(Look::Kept) => None,
                    Ok(Look::Asked) => continue,
                    Ok(Look::Failed) => Some(format!("{address} doesn't answer {}", asks(*address))),
                    Err(error) => Some(format!("{error:#}")),
                };
                if trouble.is_some() == *troubled {
                    continue;
                }
                *troubled = trouble.is_some();
                let Ok(mut state) = state.lock() else { return };
                state.say(match trouble {
                    Some(trouble) => format!("the {name} can't be reached: {trouble}"),
                    None => format!("the {name} can be reached again"),
                });
            }
        }
    }
}
