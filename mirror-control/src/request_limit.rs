//! How many requests a server answers on one connection, told by what it does.
//!
//! nginx (`keepalive_requests`), Apache (`MaxKeepAliveRequests`) and others close a connection behind so many, and say so in the
//! last answer (RFC 9112, 9.6). By the time that a mirror's last answer is read its leg may have been fed more: what was a write
//! among that is owed, and the mirror out of sync. Fed no more than its server answers, it never is.

/// Connections in a row that end behind as many requests, by which the limit is believed.
const ENOUGH: u32 = 3;
/// Fewer can't be kept to: the next connection begins behind the one that is being answered.
const LEAST: u32 = 2;

/// The limit of a side's servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLimit {
    /// Requests of the last connection, and how many in a row had as many.
    last: u32,
    in_a_row: u32,
    found: u32,
}

impl RequestLimit {
    /// A server closes a connection behind so many requests, as it said in the last answer. The limit, where one is found, or
    /// another one than before.
    pub fn closed_behind(&mut self, requests: u32) -> Option<u32> {
        self.in_a_row = if requests == self.last { self.in_a_row + 1 } else { 1 };
        self.last = requests;
        let found = requests >= LEAST && self.in_a_row >= ENOUGH && requests != self.found;
        found.then(|| {
            self.found = requests;
            requests
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T31: who closes when it is idle closes behind any number.
    #[test]
    fn a_limit_is_what_three_connections_in_a_row_end_behind() {
        let mut limit = RequestLimit::default();
        let mut of = |requests: &[u32]| requests.iter().map(|n| limit.closed_behind(*n)).collect::<Vec<_>>();
        assert_eq!(of(&[5, 5, 4, 5, 5, 6]), [None; 6]);
        assert_eq!(of(&[5, 5, 5, 5]), [None, None, Some(5), None], "it is said once");
        assert_eq!(of(&[3, 3, 3]), [None, None, Some(3)], "it is another server now");
        assert_eq!(of(&[1, 1, 1, 1]), [None; 4], "no connection is kept");
    }
}
