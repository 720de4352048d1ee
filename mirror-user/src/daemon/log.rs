//! `--log-packets`: what the programs say of each packet goes to the daemon's log.

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};

use crate::datapath::Datapath;

/// Reads on, in a thread of its own. A full ring loses lines, never packets.
///
/// # Errors
/// When the programs were built without that.
pub(super) fn start(datapath: &mut Datapath) -> Result<()> {
    let mut logger = datapath.logger()?;
    std::thread::Builder::new().name("log".into()).spawn(move || {
        loop {
            match poll(&mut [PollFd::new(&logger, PollFlags::IN)], None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => logger.flush(),
                Err(error) => {
                    tracing::error!("packets are no longer logged: {error}");
                    return;
                }
            }
        }
    })?;
    Ok(())
}
