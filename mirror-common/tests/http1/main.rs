//! The HTTP/1.x parser: by tables of cases (names carry the hazard's number), under every split, and against
//! another parser.
#![allow(missing_docs, reason = "tests")]

mod agreement;
mod requests;
mod responses;
mod speed;
mod splits;
mod stream;
