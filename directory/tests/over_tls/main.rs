//! The directory over real TLS and QUIC.

mod classic;
mod extended;
mod replica;
mod site;
mod upstream;
mod web;
