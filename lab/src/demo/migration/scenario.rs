//! What befalls a shadow, and how its migration should end.

/// One story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// It is as good as the primary
    Good,
    /// It gets slow at 25 % of the reads
    Slow,
    /// It errs at 50 % of the reads
    Errs,
    /// Its answers differ at 10 % of the reads
    Differs,
    /// It dies behind the cutover
    Dies,
}

impl Scenario {
    /// All, in the order in which they are played.
    pub const ALL: [Self; 5] = [Self::Good, Self::Slow, Self::Errs, Self::Differs, Self::Dies];

    /// As it is chosen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Slow => "slow",
            Self::Errs => "errs",
            Self::Differs => "differs",
            Self::Dies => "dies",
        }
    }

    /// What is going to happen.
    pub const fn story(self) -> &'static str {
        match self {
            Self::Good => "a shadow as good as the primary is moved to, and stays",
            Self::Slow => "a shadow gets slow at 25 % of the reads, and loses them",
            Self::Errs => "a shadow errs at 50 % of the reads, and loses them",
            Self::Differs => "a shadow's answers differ at 10 % of the reads, and it loses them",
            Self::Dies => "a shadow dies behind the cutover, and the primary takes over again",
        }
    }

    /// The weight at which it falls ill, in percent, and what ails its reads then, as its server is told.
    pub(super) const fn ailment(self) -> Option<(f64, &'static str)> {
        match self {
            Self::Good | Self::Dies => None,
            Self::Slow => Some((25.0, "delay_ms=20")),
            Self::Errs => Some((50.0, "errors=0.3")),
            Self::Differs => Some((10.0, "differs=0.3")),
        }
    }

    /// The share of its reads that the ill shadow answers wrong; nothing where it answers right, if late.
    pub(super) const fn bad_share(self) -> Option<f64> {
        match self {
            Self::Errs | Self::Differs => Some(0.3),
            Self::Good | Self::Slow | Self::Dies => None,
        }
    }

    /// The migration's last stage.
    pub(super) const fn ends(self) -> &'static str {
        match self {
            Self::Good => "Finalized",
            Self::Slow | Self::Errs | Self::Differs => "Aborted",
            Self::Dies => "RolledBack",
        }
    }
}
