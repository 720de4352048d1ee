//! Health checks of our own: a GET, or a TCP connection, from the gateway to a side's server.

use std::{net::SocketAddrV4, time::Duration};

use anyhow::Result;

/// A check that takes longer has failed.
const PATIENCE: Duration = Duration::from_millis(900);

/// Checks both sides, at the same time.
pub struct Checker {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    path: Option<String>,
}

impl Checker {
    /// A checker that asks for `path`; without one it only connects.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(path: Option<String>) -> Result<Self> {
        let http =
            reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).no_proxy().build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, http, path })
    }

    /// Whether each server is well; nothing where there is no server.
    pub fn check(&self, servers: [Option<SocketAddrV4>; 2]) -> [Option<bool>; 2] {
        let [primary, shadow] = servers;
        self.runtime.block_on(async {
            let both = tokio::join!(self.one(primary), self.one(shadow));
            [both.0, both.1]
        })
    }

    async fn one(&self, server: Option<SocketAddrV4>) -> Option<bool> {
        let server = server?;
        Some(match &self.path {
            Some(path) => {
                let answer = self.http.get(format!("http://{server}{path}")).send().await;
                answer.is_ok_and(|answer| answer.status().is_success())
            }
            None => {
                let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(server)).await;
                connected.is_ok_and(|connected| connected.is_ok())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn server(answer: &'static [u8]) -> SocketAddrV4 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("IPv4") };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut request = [0; 512];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(answer);
            }
        });
        address
    }

    #[test]
    fn well_is_who_answers_with_success_and_nobody_else() {
        let well = server(b"HTTP/1.1 204 No Content\r\n\r\n");
        let ill = server(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
        let nobody = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1);
        let asks = Checker::new(Some("/health".into())).unwrap();
        assert_eq!(asks.check([Some(well), Some(ill)]), [Some(true), Some(false)]);
        assert_eq!(asks.check([Some(nobody), None]), [Some(false), None]);
        let connects = Checker::new(None).unwrap();
        assert_eq!(connects.check([Some(ill), Some(nobody)]), [Some(true), Some(false)]);
    }
}
