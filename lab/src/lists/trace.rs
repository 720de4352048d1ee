//! When a server got each request and when it had answered it, on the machine's monotonic clock.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

/// A file with a line `REQUEST-ID RECEIVED ANSWERED` (microseconds) for each request that had an id.
#[derive(Debug)]
pub(super) struct Trace {
    file: BufWriter<File>,
}

impl Trace {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: BufWriter::with_capacity(1 << 16, File::create(path)?) })
    }

    pub(super) fn add(&mut self, id: &str, received: Duration, answered: Duration) -> io::Result<()> {
        writeln!(self.file, "{id} {} {}", received.as_micros(), answered.as_micros())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
