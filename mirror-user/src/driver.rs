//! Drivers that bring shadows up; what a driver is: [`mirror_control::driver`].

pub mod process;
