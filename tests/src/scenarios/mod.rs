//! The scenarios, a file each.

mod all_killed;
mod arm64;
mod at_hand;
mod atsdk;
mod backlog;
mod black_hole;
mod certificates;
mod cheating_server;
mod classic_peers;
mod clock;
mod clones;
mod crash;
mod demo;
mod descriptors;
mod directory_down;
mod disk_damage;
mod disk_full;
mod failing_disk;
mod failpoints;
mod flaps;
mod flash_wear;
mod full_disk;
mod full_queue;
mod handshake_flood;
mod hostile;
mod link;
mod lossy_peers;
mod many_devices;
mod memory;
mod memory_ceiling;
mod modbus_units;
mod moving;
mod newest;
mod noisy_tenant;
mod one_connection;
mod outage;
mod own_atsigns;
mod padding_oracle;
mod partition;
mod peer_crash;
mod pulled_plug;
mod read_only_disk;
mod rebinding;
mod refusals;
mod reload;
mod resume;
mod revocation;
mod roads;
mod rogue_mqtt;
mod satellite;
mod scanner;
mod serial_noise;
mod server_crash;
mod several_readers;
mod silent_peers;
mod slow_senders;
mod spoilt_queue;
mod stolen_disk;
mod transcripts;
mod udp_blocked;

use crate::scenario::Scenario;

const ROAD: &str = "road";
const GATEWAY: &str = "gateway";
const SERVER: &str = "server";
const FEDERATION: &str = "federation";
const SIMULATION: &str = "simulation";
const PACKAGE: &str = "package";

/// All there are, in the order in which they run.
pub const ALL: &[Scenario] = &[
    Scenario { group: ROAD, name: "demo", run: demo::run },
    Scenario { group: ROAD, name: "atsdk", run: atsdk::run },
    Scenario { group: ROAD, name: "classic-peers", run: classic_peers::run },
    Scenario { group: ROAD, name: "refusals", run: refusals::run },
    Scenario { group: GATEWAY, name: "resume", run: resume::run },
    Scenario { group: GATEWAY, name: "memory", run: memory::run },
    Scenario { group: GATEWAY, name: "outage", run: outage::run },
    Scenario { group: GATEWAY, name: "at-hand", run: at_hand::run },
    Scenario { group: GATEWAY, name: "reload", run: reload::run },
    Scenario { group: GATEWAY, name: "crash", run: crash::run },
    Scenario { group: GATEWAY, name: "crash-sabotaged", run: crash::run_sabotaged },
    Scenario { group: GATEWAY, name: "failpoints", run: failpoints::run },
    Scenario { group: GATEWAY, name: "failpoints-sabotaged", run: failpoints::run_sabotaged },
    Scenario { group: ROAD, name: "all-killed", run: all_killed::run },
    Scenario { group: ROAD, name: "all-killed-sabotaged", run: all_killed::run_sabotaged },
    Scenario { group: GATEWAY, name: "full-queue", run: full_queue::run },
    Scenario { group: GATEWAY, name: "several-readers", run: several_readers::run },
    Scenario { group: GATEWAY, name: "newest", run: newest::run },
    Scenario { group: GATEWAY, name: "own-atsigns", run: own_atsigns::run },
    Scenario { group: GATEWAY, name: "backlog", run: backlog::run },
    Scenario { group: GATEWAY, name: "clock", run: clock::run },
    Scenario { group: GATEWAY, name: "clones", run: clones::run },
    Scenario { group: GATEWAY, name: "stolen-disk", run: stolen_disk::run },
    Scenario { group: GATEWAY, name: "cheating-server", run: cheating_server::run },
    Scenario { group: GATEWAY, name: "powercut", run: crate::powercut::run },
    Scenario { group: GATEWAY, name: "pulled-plug", run: pulled_plug::run },
    Scenario { group: GATEWAY, name: "pulled-plug-first-starts", run: pulled_plug::run_first_starts },
    Scenario { group: GATEWAY, name: "pulled-plug-lying-disk", run: pulled_plug::run_on_a_lying_disk },
    Scenario { group: GATEWAY, name: "full-disk", run: full_disk::run },
    Scenario { group: GATEWAY, name: "full-disk-sabotaged", run: full_disk::run_sabotaged },
    Scenario { group: GATEWAY, name: "failing-disk", run: failing_disk::run },
    Scenario { group: GATEWAY, name: "read-only-disk", run: read_only_disk::run },
    Scenario { group: GATEWAY, name: "flash-wear", run: flash_wear::run },
    Scenario { group: GATEWAY, name: "spoilt-queue", run: spoilt_queue::run },
    Scenario { group: GATEWAY, name: "serial-noise", run: serial_noise::run },
    Scenario { group: GATEWAY, name: "modbus-units", run: modbus_units::run },
    Scenario { group: GATEWAY, name: "rogue-mqtt", run: rogue_mqtt::run },
    Scenario { group: SERVER, name: "transcripts", run: transcripts::run },
    Scenario { group: SERVER, name: "hostile", run: hostile::run },
    Scenario { group: SERVER, name: "revocation", run: revocation::run },
    Scenario { group: SERVER, name: "descriptors", run: descriptors::run },
    Scenario { group: SERVER, name: "memory-ceiling", run: memory_ceiling::run },
    Scenario { group: SERVER, name: "slow-senders", run: slow_senders::run },
    Scenario { group: SERVER, name: "handshake-flood", run: handshake_flood::run },
    Scenario { group: SERVER, name: "noisy-tenant", run: noisy_tenant::run },
    Scenario { group: SERVER, name: "certificates", run: certificates::run },
    Scenario { group: SERVER, name: "padding-oracle", run: padding_oracle::run },
    Scenario { group: SERVER, name: "disk-damage", run: disk_damage::run },
    Scenario { group: SERVER, name: "disk-full", run: disk_full::run },
    Scenario { group: SERVER, name: "server-crash", run: server_crash::run },
    Scenario { group: SERVER, name: "server-crash-sabotaged", run: server_crash::run_sabotaged },
    Scenario { group: FEDERATION, name: "scanner", run: scanner::run },
    Scenario { group: SIMULATION, name: "simulation", run: crate::sim::run },
    Scenario { group: SIMULATION, name: "simulation-days", run: crate::sim::run_days },
    Scenario { group: SIMULATION, name: "simulation-sabotaged", run: crate::sim::run_sabotaged },
    Scenario { group: FEDERATION, name: "link", run: link::run },
    Scenario { group: FEDERATION, name: "lossy-peers", run: lossy_peers::run },
    Scenario { group: FEDERATION, name: "lossy-peers-classic", run: lossy_peers::run_classic },
    Scenario { group: FEDERATION, name: "heavy-loss", run: lossy_peers::run_heavy },
    Scenario { group: FEDERATION, name: "satellite", run: satellite::run },
    Scenario { group: FEDERATION, name: "partition", run: partition::run },
    Scenario { group: FEDERATION, name: "flaps", run: flaps::run },
    Scenario { group: FEDERATION, name: "rebinding", run: rebinding::run },
    Scenario { group: FEDERATION, name: "rebinding-classic", run: rebinding::run_classic },
    Scenario { group: FEDERATION, name: "udp-blocked", run: udp_blocked::run },
    Scenario { group: FEDERATION, name: "black-hole", run: black_hole::run },
    Scenario { group: FEDERATION, name: "one-connection", run: one_connection::run },
    Scenario { group: FEDERATION, name: "silent-peers", run: silent_peers::run },
    Scenario { group: FEDERATION, name: "directory-down", run: directory_down::run },
    Scenario { group: FEDERATION, name: "roads", run: roads::run },
    Scenario { group: FEDERATION, name: "peer-crash", run: peer_crash::run },
    Scenario { group: FEDERATION, name: "moving", run: moving::run },
    Scenario { group: FEDERATION, name: "many-devices", run: many_devices::run },
    Scenario { group: PACKAGE, name: "arm64", run: arm64::run },
];
