//! The whole road in one process.

pub mod evidence;
