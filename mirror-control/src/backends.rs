//! Which of a side's servers take new connections: those that their health checks find well.

/// Checks in a row that must fail before a server gets no new connections.
pub const FAILURES: u32 = 3;
/// Checks in a row that must succeed before it gets them again.
pub const SUCCESSES: u32 = 2;

/// How one server's checks have come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    well: bool,
    /// Checks in a row that said otherwise.
    against: u32,
}

impl Health {
    /// As it was left.
    pub const fn found(well: bool) -> Self {
        Self { well, against: 0 }
    }

    /// Whether it is held to be well.
    pub const fn is_well(&self) -> bool {
        self.well
    }

    /// A check was made. True: that has changed what it is held for.
    pub fn checked(&mut self, well: bool) -> bool {
        if well == self.well {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let enough = self.against >= if self.well { FAILURES } else { SUCCESSES };
        if enough {
            *self = Self::found(well);
        }
        enough
    }
}

/// Which take new connections, in their order: those that are well, or all where none is. To try is better than to refuse.
pub fn taking(health: &[Health]) -> Vec<bool> {
    let any = health.iter().any(Health::is_well);
    health.iter().map(|one| one.is_well() || !any).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_some_checks_in_a_row_to_go_and_to_come_back() {
        let mut health = Health::found(true);
        let mut changes =
            |checks: &[bool]| -> Vec<bool> { checks.iter().map(|well| health.checked(*well)).collect() };
        assert_eq!(changes(&[false, false, true, false, false]), [false; 5], "never three in a row");
        assert_eq!(changes(&[false]), [true]);
        assert_eq!(changes(&[true, false, true]), [false; 3], "never two in a row");
        assert_eq!(changes(&[true]), [true]);
        assert!(health.is_well());
    }

    #[test]
    fn who_is_well_takes_connections_and_all_do_where_nobody_is() {
        let found = |well: &[bool]| well.iter().map(|well| Health::found(*well)).collect::<Vec<_>>();
        assert_eq!(taking(&found(&[true, false, true])), [true, false, true]);
        assert_eq!(taking(&found(&[false, false])), [true, true]);
        assert_eq!(taking(&[]), Vec::<bool>::new());
    }
}
