//! As many open files as the system lets this process have: each connection is one, each journal another.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one.
pub(crate) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Where it is refused, the old limit stays, and running out of files will be reported as such.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
