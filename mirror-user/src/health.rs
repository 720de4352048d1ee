//! Asks a server whether it is well: by a GET, a TCP connection, or a DNS query.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mirror_common::datagram::SERVFAIL;
use mirror_control::driver::Check;
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Asks servers, from wherever a thread may block.
pub struct Checker {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    patience: Duration,
}

impl Checker {
    /// A checker to which an answer that takes longer than `patience` is none.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(patience: Duration) -> Result<Self> {
        let redirects = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder()
            .timeout(patience)
            .pool_max_idle_per_host(0)
            .redirect(redirects)
            .no_proxy()
            .build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, http, patience })
    }

    /// Asks one.
    ///
    /// # Errors
    /// Why it isn't well.
    pub fn ask(&self, server: SocketAddr, check: &Check) -> Result<()> {
        self.runtime.block_on(self.one(server, check))
    }

    /// Asks many at the same time, each by its own check: whether it is well, in their order.
    pub fn ask_all(&self, servers: &[(SocketAddr, Check)]) -> Vec<bool> {
        let asked = servers.iter().map(async |(server, check)| self.one(*server, check).await.is_ok());
        self.runtime.block_on(futures::future::join_all(asked))
    }

    async fn one(&self, server: SocketAddr, check: &Check) -> Result<()> {
        match check {
            Check::Tcp => {
                let connected = timeout(self.patience, TcpStream::connect(server)).await;
                let connected = connected.with_context(|| format!("{server} doesn't answer"))?;
                connected.map(drop).with_context(|| format!("{server} takes no connection"))
            }
            Check::Dns => {
                let answered = timeout(self.patience, query(server)).await;
                answered.with_context(|| format!("{server} doesn't answer"))?
            }
            Check::Http(path) => {
                let url = format!("http://{server}{path}");
                let answer =
                    self.http.get(&url).send().await.with_context(|| format!("{url} doesn't answer"))?;
                let status = answer.status();
                ensure!(status.is_success() || status.is_redirection(), "{url} answers {status}");
                Ok(())
            }
        }
    }
}

/// Asks for the root's name servers (RFC 1035, 4.1). Who knows none says so, which is an answer.
async fn query(server: SocketAddr) -> Result<()> {
    let here: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(here).await?;
    socket.connect(server).await?;
    let mut id = [0; 2];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    let [high, low] = id;
    socket.send(&[high, low, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1]).await?;
    let mut answer = [0; 512];
    loop {
        let length = socket.recv(&mut answer).await.with_context(|| format!("{server} takes no query"))?;
        if let [first, second, flags, code, ..] = answer[..length]
            && [first, second] == id
            && flags & 0x80 != 0
        {
            ensure!(code & 15 != SERVFAIL, "{server} answers that it fails");
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn server(at: &str, answer: &'static [u8]) -> SocketAddr {
        let listener = std::net::TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap();
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
        let well = server("127.0.0.1:0", b"HTTP/1.1 204 No Content\r\n\r\n");
        let ill = server("127.0.0.1:0", b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let patience = Duration::from_secs(5);
        let asks = Checker::new(patience).unwrap();
        let path = Check::Http("/health".into());
        let all = [ill, well, nobody, well].map(|server| (server, path.clone()));
        assert_eq!(asks.ask_all(&all), [false, true, false, true]);
        assert!(asks.ask(ill, &path).unwrap_err().to_string().contains("503"));
        let mixed = [(ill, Check::Tcp), (nobody, Check::Tcp), (ill, path)];
        assert_eq!(asks.ask_all(&mixed), [true, false, false], "each by its own check");
    }

    #[test]
    fn a_name_server_is_well_that_answers_what_it_was_asked() {
        let server = |changes: fn(&mut Vec<u8>)| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            std::thread::spawn(move || {
                let mut query = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut query) {
                    let mut answer = query[..length].to_vec();
                    answer[2] |= 0x80;
                    changes(&mut answer);
                    let _ = socket.send_to(&answer, from);
                }
            });
            address
        };
        let checker = Checker::new(Duration::from_secs(5)).unwrap();
        let asks = |server| checker.ask(server, &Check::Dns);
        asks(server(|answer| answer[3] = 5)).unwrap();
        assert!(asks(server(|answer| answer[3] = SERVFAIL)).unwrap_err().to_string().contains("fails"));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(asks(nobody).unwrap_err().to_string().contains("takes no query"));
        let hasty = Checker::new(Duration::from_millis(50)).unwrap();
        for changes in [|answer: &mut Vec<u8>| answer[0] ^= 1, |answer: &mut Vec<u8>| answer[2] = 0] {
            assert!(
                hasty.ask(server(changes), &Check::Dns).unwrap_err().to_string().contains("doesn't answer")
            );
        }
    }

    #[test]
    fn a_server_of_ipv6_is_asked_as_any() {
        let well = server("[::1]:0", b"HTTP/1.1 204 No Content\r\n\r\n");
        let patience = Duration::from_secs(5);
        let checker = Checker::new(patience).unwrap();
        checker.ask(well, &Check::Http("/health".into())).unwrap();
        checker.ask(well, &Check::Tcp).unwrap();
    }
}
