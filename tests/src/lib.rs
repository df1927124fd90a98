//! What crosses crates: towns of real processes, scenarios, transcripts, the tidy check.

pub mod accounts;
pub mod broker;
pub mod commander;
pub mod crowd;
pub mod federation;
pub mod field;
pub mod flood;
pub mod fuzz;
pub mod gateway;
pub mod killing;
pub mod ledger;
pub mod link;
pub mod net;
pub mod peer;
pub mod powercut;
pub mod process;
pub mod publisher;
pub mod random;
pub mod registrar;
pub mod replay;
pub mod scenario;
pub mod scenarios;
pub mod sim;
pub mod town;
pub mod transcript;
pub mod wire;
