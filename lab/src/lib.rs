//! Hosts, links, loss and captures in network namespaces; an application, a checking client and a proof for them.
//!
//! # Overview
//! | module | for |
//! |---|---|
//! | [`net`] | [`net::Lab`]: client, gateway, primary and shadow; running closures and programs in them |
//! | [`wire`] | a link that delays, loses, reorders and duplicates frames, or asks a filter about each |
//! | [`packet_socket`] | whole frames of one device, received and sent |
//! | [`capture`] | tcpdump on a host |
//! | [`wait`] | waiting for a condition with a deadline |
//! | [`lists`] | the application: append-only lists over HTTP/1.1 (binary `lists`) |
//! | [`names`] | a name server with updates, and clients that see who answers |
//! | [`checker`] | the checking client (binary `checker`) |
//! | [`gateway`] | the gateway itself, started on its host |
//! | [`programs`] | the binaries, started on hosts |
//! | [`demo`] | the whole job once, for whoever watches (binary `demo`) |
//! | [`proof`] | what the journals say against what the servers have (binary `proof`) |
//! | [`nginx`], [`load`] | nginx on a host; wrk and oha with their results as numbers; busy time |
//! | [`http_client`] | one request over one connection |
//! | [`transfer`] | one large body over one connection, timed and checked |
//!
//! ```no_run
//! use lab::net::{Host, Lab};
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().forwarding(true).xdp_ready(true).up()?;
//! let list = lab.host(Host::Client).run(|| std::net::TcpStream::connect(Host::Primary.service()))?;
//! # drop(list); Ok(()) }
//! ```

pub mod capture;
pub mod checker;
mod clock;
pub mod demo;
pub mod gateway;
pub mod http_client;
mod limits;
pub mod lists;
pub mod load;
pub mod names;
pub mod net;
pub mod nginx;
pub mod packet_socket;
pub mod programs;
pub mod proof;
mod tcp_info;
pub mod transfer;
pub mod wait;
pub mod wire;
