//! Asks an instance whether it serves.

use std::{
    net::SocketAddrV4,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mirror_control::driver::Check;

use super::record::Mark;
use crate::health::Checker;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// The rest between two questions.
const REST: Duration = Duration::from_millis(20);

/// Asks once.
///
/// # Errors
/// Why it doesn't serve.
pub(super) fn ask(address: SocketAddrV4, check: &Check) -> Result<()> {
    Checker::new(ANSWER)?.ask(address.into(), check)
}

/// Asks until it serves.
///
/// # Errors
/// When its process has ended, or time is up.
pub(super) fn wait(address: SocketAddrV4, check: &Check, time: Duration, process: &Mark) -> Result<()> {
    let deadline = Instant::now() + time;
    loop {
        let Err(error) = ask(address, check) else { return Ok(()) };
        if !process.runs() {
            bail!("it has ended");
        }
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("it doesn't serve within {} s", time.as_secs_f64()));
        }
        std::thread::sleep(REST);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{Ipv4Addr, TcpListener},
        process::{Command, Stdio},
    };

    use super::*;

    /// Answers one request with a status line; the address.
    fn answering(status: &'static str) -> SocketAddrV4 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
    }

    #[test]
    fn what_answers_well_is_healthy_and_errors_are_not() {
        let http = Check::Http("/ping".into());
        ask(answering("204 No Content"), &http).unwrap();
        ask(answering("302 Found"), &http).unwrap();
        let error = ask(answering("503 Service Unavailable"), &http).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
        ask(answering(""), &Check::Tcp).unwrap();
    }

    #[test]
    fn a_closed_port_is_waited_for_until_the_deadline_or_the_end_of_the_process() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let closed = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port());
        drop(listener);
        let own = Mark::of(std::process::id()).unwrap();
        let error = wait(closed, &Check::Tcp, Duration::from_millis(1), &own).unwrap_err();
        assert!(error.to_string().contains("within 0.001 s"), "{error}");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let ended = Mark::of(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let error = wait(closed, &Check::Tcp, Duration::from_secs(60), &ended).unwrap_err();
        assert!(error.to_string().contains("has ended"), "{error}");
    }
}
