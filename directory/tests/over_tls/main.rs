//! The directory over real TLS.

mod classic;
mod extended;
mod site;
mod upstream;
