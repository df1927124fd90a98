//! The agent's socket for the person at the gateway: what is asked there, who may, and the answers.
//!
//! One ask a connection: a line with a JSON object, answered by one line, or by as many as there are for
//! [`Ask::Tap`]. The socket's mode is 0660, so whoever can open it is its owner, root, or in its group;
//! payloads are shown to the first two alone.

mod ask;
pub mod caller;
mod desk;
mod place;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::look as test_look;

pub use ask::{Answer, Ask, InvalidAsk, MOST_ASK};
pub use desk::{Desk, Reloading};
pub use place::{Place, place};
