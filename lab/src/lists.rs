//! The application: append-only lists by key, over HTTP/1.1.
//!
//! Every write leaves a trace that can't be mistaken: a lost, doubled or misordered one shows in the lists at one look.

mod http;
mod server;
mod spoil;
mod store;
mod trace;

pub use http::{Answer, BodyReader, Head, HttpError, Method, parse_head};
pub use server::{ServerConfig, serve};
pub use spoil::Spoil;
pub use store::{Lists, Store, StoreError, parse_dump};
