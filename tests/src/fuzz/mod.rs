//! Every parser that strangers can reach, as functions of bytes that must not panic.
//!
//! `tests/fuzz` runs them under cargo-fuzz; `tests/tests/corpus.rs` replays the committed corpus and
//! mutations of it with every `cargo test`. Where a parser promises more than to survive, its target
//! checks that, too.

mod config;
mod control;
mod directory;
mod field;
mod genuine;
mod keys;
mod payload;
mod seams;
mod web;
mod wire;

/// What a target does with its input.
pub type Target = fn(&[u8]);

/// All targets, by name; each has a folder of that name in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("lines", wire::lines),
    ("verb", wire::verb),
    ("metadata", wire::metadata),
    ("json_verb", wire::json_verb),
    ("notification", wire::notification),
    ("remote_error", wire::remote_error),
    ("client_session", wire::client_session),
    ("server_session", wire::server_session),
    ("http_target", web::http_target),
    ("base2e15", web::base2e15),
    ("directory_answer", wire::directory_answer),
    ("directory_session", directory::directory_session),
    ("signed_record", directory::signed_record),
    ("follow_line", directory::follow_line),
    ("rpc", wire::rpc),
    ("key_file", keys::key_file),
    ("pkam_key", keys::pkam_key),
    ("sealed", keys::sealed),
    ("envelope", genuine::envelope),
    ("caps", genuine::caps),
    ("pair_statement", genuine::pair_statement),
    ("batch", payload::batch),
    ("receipt", payload::receipt),
    ("decode", field::decode),
    ("modbus_rtu", field::modbus_rtu),
    ("modbus_questions", field::modbus_questions),
    ("modbus_tcp", field::modbus_tcp),
    ("framing", field::framing),
    ("mqtt_listen", seams::mqtt_listen),
    ("serial_line", seams::serial_line),
    ("agent_config", config::agent_config),
    ("control_ask", control::control_ask),
    ("metrics_request", control::metrics_request),
];

/// Runs one target; for cargo-fuzz.
///
/// # Panics
/// The target does, which is a finding; or there is none of this name.
pub fn run(name: &str, input: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(input);
}
