//! A network of our own, worse than any machine has at hand: packets between TUN devices, delayed, lost,
//! doubled, reordered, throttled or cut, all by chance that a seed repeats.
//!
//! Each device stands in a network namespace and owns a /24 network; what is sent to an address goes to the
//! device that owns it. Each ordered pair of devices is a [`Direction`] with an [`Impairment`] of its own,
//! so that a path can be bad, or cut, one way only. All of it is pure and knows no clock, but
//! [`driver`](drive), which moves bytes.

mod command;
mod direction;
mod disguise;
mod driver;
mod impairment;
mod switch;

pub use command::{Command, CommandError};
pub use direction::{Counters, Direction};
pub use disguise::{Disguise, Verdict};
pub use driver::{LinkError, Plug, drive, open};
pub use impairment::{Impairment, ImpairmentError, Share};
pub use switch::{Port, PortError, Switch};
