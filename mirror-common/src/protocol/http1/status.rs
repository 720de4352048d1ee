//! Answers by the class of their status (RFC 9110, 15): 1xx to 5xx.

/// How many classes there are.
pub const CLASSES: usize = 5;

/// The class of server errors.
pub const SERVER_ERRORS: u32 = 4;

/// A status' class: 0 of 1xx to 4 of 5xx. One out of range is treated as a server's error (RFC 9110, 15).
#[inline(always)]
#[must_use]
pub const fn class(status: u16) -> u32 {
    let class = (status as u32 / 100).wrapping_sub(1);
    if class < CLASSES as u32 { class } else { SERVER_ERRORS }
}

/// How many answers of each class a segment brings, in one word: six bits a class. [`Statuses::MOST`] stands for as many and
/// more: no more requests are ever open on a connection ([`super::MAX_OUTSTANDING`]), but a server may answer unasked.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses(pub u32);

impl Statuses {
    const BITS: u32 = 6;
    /// The most that is counted of a class.
    pub const MOST: u32 = (1 << Self::BITS) - 1;

    /// One answer.
    #[inline(always)]
    #[must_use]
    pub const fn one(status: u16) -> Self {
        Self(1 << (Self::BITS * class(status)))
    }

    /// Counts an answer.
    #[inline(always)]
    pub const fn add(&mut self, status: u16) {
        let class = class(status);
        let room = (self.of(class) < Self::MOST) as u32;
        self.0 += room << (Self::BITS * class);
    }

    /// Those of a class, 0 to 4.
    #[inline(always)]
    #[must_use]
    pub const fn of(self, class: u32) -> u32 {
        self.0 >> (Self::BITS * class) & Self::MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_counted_apart_and_none_runs_over_into_the_next() {
        let mut statuses = Statuses::default();
        for (status, count) in [(100, 1), (204, 2), (304, 3), (401, 100), (503, 4), (999, 1)] {
            (0..count).for_each(|_| statuses.add(status));
        }
        assert_eq!([0, 1, 2, 3, 4].map(|class| statuses.of(class)), [1, 2, 3, 63, 5]);
        assert_eq!(Statuses::one(404).of(3), 1);
        assert_eq!([99, 100, 199, 200, 599, 600].map(class), [4, 0, 0, 1, 4, 4]);
    }
}
