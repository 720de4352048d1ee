//! The daemon and command line of the gateway, as a library.
//!
//! * [`policy`]: a TOML file becomes types that can't be wrong.
//! * [`datapath`]: loads, attaches, pins and sweeps the kernel side; [`words`]: the shared words, mapped.
//! * [`network`]: devices, routes and neighbours; [`alias`]: IPv6 addresses as the datapath knows them.
//! * [`tap`], [`hold`]: packets that wait.
//! * [`moves`]: join, cutover, rollback and weights on the words; planned by `mirror_control::moves`.
//! * [`journal`], [`health`]: what a migration by itself keeps, and how it asks whether a server is well.
//! * [`resources`]: what both sides' servers use, each second; [`series`]: that, kept on disk.
//! * [`outlook`]: forecasts of the request rates; [`demand`]: what each side needs for them.
//! * [`driver`]: brings shadows up on this host, and down again.
//! * [`daemon`], [`api`], [`state`], [`flows`], [`metrics`]: what `mirror run` serves.
//! * [`events`]: what happens, told to a file and to webhooks.
//! * [`cli`]: what a person types; [`apps`]: which application is meant; [`output`]: what is printed; [`top`]: both, over the
//!   whole terminal.
//! * [`report`]: a page of what was moved, when and why.
//! * [`doctor`]: whether this host can run it; [`observe`]: what share of the requests could be shifted.

pub mod alias;
pub mod api;
pub mod apps;
pub mod cli;
pub mod daemon;
pub mod datapath;
pub mod demand;
pub mod device;
pub mod doctor;
pub mod driver;
pub mod events;
pub mod flows;
pub mod health;
pub mod hold;
pub mod journal;
pub mod metrics;
pub mod moves;
pub mod network;
pub mod object;
pub mod observe;
pub mod outlook;
pub mod output;
pub mod policy;
pub mod report;
pub mod resources;
pub mod series;
pub mod state;
pub mod tap;
pub mod top;
pub mod words;
