//! The command line: what people type, and its help.

use std::path::PathBuf;
use std::time::Duration;

use at_protocol::crypto::Ed25519Public;
use at_protocol::directory::{Address, Pattern};
use at_protocol::{AtSign, KeyName};
use clap::{Args, Parser, Subcommand};

/// Everyday atProtocol, a private atPlatform for development, and the fleet's commands.
#[derive(Debug, Parser)]
#[command(name = "atedge", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `atedge` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Activate an atSign: make its keys and register them with its atServer.
    #[command(
        after_help = "Example: atedge onboard @plant7gw1 --cram-file secret.txt --directory localhost:6400"
    )]
    Onboard(Onboard),
    /// Write a record.
    #[command(after_help = "Examples:
  atedge put @alice public:location.plant7 'Hall 3'
  atedge put @alice phone.plant7 '+1 555'          (for @alice herself)
  atedge put @alice @bob:phone.plant7 '+1 555'     (shared with @bob)")]
    Put(Put),
    /// Read a record.
    #[command(after_help = "Examples:
  atedge get @alice phone.plant7                   (her own)
  atedge get @alice phone.plant7@bob               (what @bob shared with her)
  atedge get @alice public:location.plant7@bob     (anybody's public record)")]
    Get(Get),
    /// Remove a record.
    #[command(after_help = "Example: atedge delete @alice @bob:phone.plant7")]
    Delete(Delete),
    /// List keys.
    #[command(after_help = "Example: atedge scan @alice '\\.plant7@'")]
    Scan(Scan),
    /// Send a notification.
    #[command(after_help = "Example: atedge notify @alice @bob temp.plant7 21.5 --wait 10s")]
    Notify(Notify),
    /// Show notifications as they arrive, decrypted; telemetry one reading a line.
    #[command(after_help = "Examples:
  atedge watch @plant7ops --regex '\\.tel\\.plant7@' --json
  atedge watch @plant7ops --receipts --state ~/plant7ops --json >> readings.jsonl")]
    Watch(Watch),
    /// Send a command to a gateway's device and follow it to its end.
    #[command(
        after_help = "Example: atedge cmd @plant7gw1 boiler.setpoint value=62 --as @plant7ops --namespace plant7

Exit codes: 0 done, 1 failed or rejected, 2 wrong usage, 3 expired or not delivered."
    )]
    Cmd(Cmd),
    /// Be a fleet's registrar: say which node may serve which atSigns. Offline; its key belongs on no server.
    #[command(subcommand, after_help = "Example: atedge registrar init --key registrar.key")]
    Registrar(Registrar),
    /// Run a private atPlatform in a folder, for development.
    #[command(after_help = "Example: atedge town --atsigns @alice,@bob --dir town

The first line of output is one JSON object with the directory, the authority's certificate and, for each
atSign, its activation secret and address. It runs until SIGTERM (Ctrl-C); where standard input is a pipe, also until
that closes, so that it ends with the program that started it.")]
    Town(Town),
    /// Show the whole road in one process: devices, gateway, two servers, a reader, a command.
    #[command(after_help = "Example: atedge demo --for 20s")]
    Demo(Demo),
}

/// How to reach the atPlatform as an atSign.
#[derive(Debug, Args, Clone)]
pub struct Access {
    /// The directory.
    #[arg(long, env = "ATEDGE_DIRECTORY", value_name = "HOST:PORT", default_value = "root.atsign.org:64")]
    pub directory: Address,
    /// A further authority to trust, in PEM.
    #[arg(long, env = "ATEDGE_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The atSign's key file; `~/.atsign/keys/@NAME_key.atKeys` where not said.
    #[arg(long, env = "ATEDGE_KEYS", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Print JSON, one object a line.
    #[arg(long)]
    pub json: bool,
}

/// `atedge onboard`.
#[derive(Debug, Args)]
pub struct Onboard {
    /// The atSign to activate.
    pub atsign: AtSign,
    /// File with the activation secret; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub cram_file: PathBuf,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge put`.
#[derive(Debug, Args)]
pub struct Put {
    /// Who writes.
    pub atsign: AtSign,
    /// Which record: `name.namespace`, `public:name.namespace` or `@reader:name.namespace`.
    pub key: String,
    /// The value; `-` is standard input.
    #[arg(allow_hyphen_values = true)]
    pub value: String,
    /// How long the record lives.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub ttl: Option<Duration>,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge get`.
#[derive(Debug, Args)]
pub struct Get {
    /// Who reads.
    pub atsign: AtSign,
    /// Which record; without an owner it is one's own.
    pub key: String,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Whose record.
    pub atsign: AtSign,
    /// Which record.
    pub key: String,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge scan`.
#[derive(Debug, Args)]
pub struct Scan {
    /// Whose keys.
    pub atsign: AtSign,
    /// Only keys in which this matches, anywhere.
    pub regex: Option<String>,
    /// Hidden keys too.
    #[arg(long)]
    pub hidden: bool,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge notify`.
#[derive(Debug, Args)]
pub struct Notify {
    /// Who sends.
    pub atsign: AtSign,
    /// Who gets it.
    pub to: AtSign,
    /// Its name, such as `temp.plant7`.
    pub name: KeyName,
    /// Its value; `-` is standard input.
    #[arg(allow_hyphen_values = true)]
    pub value: String,
    /// Wait until it is delivered.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// Whose notifications.
    pub atsign: AtSign,
    /// Only those in whose key or sender this matches, anywhere.
    #[arg(long)]
    pub regex: Option<String>,
    /// Stop after this long.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub period: Option<Duration>,
    /// Stop after this many notifications.
    #[arg(long)]
    pub count: Option<u64>,
    /// Begin with what the server still holds from this long ago.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Confirm telemetry to its gateway once it is printed: the gateway then forgets it.
    #[arg(long)]
    pub confirm: bool,
    /// Be the reader that gateways wait for: announce that this atSign opens envelopes and confirms, refuse
    /// telemetry that is not known to be genuine, and confirm what is printed once that is on disk. All programs
    /// that read as this atSign must be able to do the same.
    #[arg(long, requires = "state", conflicts_with = "confirm")]
    pub receipts: bool,
    /// The folder in which `--receipts` keeps its key, what it knows of gateways, and what it has read.
    #[arg(long, value_name = "DIR", requires = "receipts")]
    pub state: Option<PathBuf>,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge cmd`.
#[derive(Debug, Args)]
pub struct Cmd {
    /// The gateway.
    pub gateway: AtSign,
    /// Device and command, such as `boiler.setpoint`.
    pub command: String,
    /// Arguments, as `name=value`; a value is JSON where it reads as JSON, else text.
    pub arguments: Vec<String>,
    /// Who commands.
    #[arg(long = "as", env = "ATEDGE_ATSIGN", value_name = "ATSIGN")]
    pub caller: AtSign,
    /// The fleet's namespace.
    #[arg(long, env = "ATEDGE_NAMESPACE")]
    pub namespace: String,
    /// How long to wait for the outcome; the command expires then.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub wait: Duration,
    /// Names this command: the same key twice is done once.
    #[arg(long, value_name = "TEXT")]
    pub key: Option<String>,
    /// How to reach the atPlatform.
    #[command(flatten)]
    pub access: Access,
}

/// `atedge registrar`.
#[derive(Debug, Subcommand)]
pub enum Registrar {
    /// Make a registrar's key and print the public half, which servers, directories and agents trust.
    #[command(after_help = "Example: atedge registrar init --key registrar.key

The public key is for `[server] registrars` of server.toml and `[[registrar]] key` of directory.toml.")]
    Init(RegistrarInit),
    /// Let a node serve certain atSigns until a certain time.
    #[command(after_help = "Examples:
  atedge registrar grant --key registrar.key --node ed25519:11qY… --atsigns '@plant7*,@ops' --for 365d
  atedge registrar grant --key registrar.key --node ed25519:11qY… --atsigns '*' --for 30d --out node1.grant

`atedge-server node` prints the node's key; the grant's place is `[server] node_grant` of its server.toml.")]
    Grant(RegistrarGrant),
    /// Explain a key, a grant or a signed record: who, which atSigns, until when, whether it holds.
    #[command(after_help = "Example: atedge registrar show node1.grant

Exit codes: 0 it holds, 1 it does not, or is nothing of the kind.")]
    Show(RegistrarShow),
}

/// `atedge registrar init`.
#[derive(Debug, Args)]
pub struct RegistrarInit {
    /// The file for the key, which must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `atedge registrar grant`.
#[derive(Debug, Args)]
pub struct RegistrarGrant {
    /// The registrar's key.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The node's public key.
    #[arg(long, value_name = "KEY")]
    pub node: Ed25519Public,
    /// Whom it may serve, separated by commas: `@alice`, all that begin alike `@plant7*`, or everybody `*`.
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',', required = true)]
    pub atsigns: Vec<Pattern>,
    /// For how long from now.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub period: Duration,
    /// The file for the grant; standard output where not said.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print JSON, which a grant is in any case.
    #[arg(long)]
    pub json: bool,
}

/// `atedge registrar show`.
#[derive(Debug, Args)]
pub struct RegistrarShow {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `atedge town`.
#[derive(Debug, Args)]
pub struct Town {
    /// Who lives there, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pub atsigns: Vec<AtSign>,
    /// Where the town keeps everything; a folder that goes with it where not said.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The directory's port; the atSigns get those after it, in their order; free ones where not said.
    #[arg(long)]
    pub port: Option<u16>,
}

/// `atedge demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// How long the devices speak.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "20s")]
    pub period: Duration,
    /// Print JSON, one object a line; the last is the summary.
    #[arg(long)]
    pub json: bool,
    /// Send one reading once more without encryption, to show that the search finds it. For tests.
    #[arg(long, hide = true)]
    pub unencrypted: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: write a number and a unit, such as 30s"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_the_help_shows_can_be_typed() {
        for line in [
            "atedge put @alice public:location.plant7 -5",
            "atedge cmd @gw boiler.setpoint value=62 --as @ops --namespace plant7 --wait 1m",
            "atedge town --atsigns @alice,@bob --port 6400",
            "atedge demo --for 20s --json",
            "atedge watch @plant7ops --receipts --state plant7ops --json",
            "atedge registrar init --key registrar.key",
            "atedge registrar grant --key k --node ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo \
             --atsigns @plant7*,@ops --for 365d",
        ] {
            Cli::try_parse_from(line.split_whitespace()).unwrap();
        }
        for line in [
            "atedge demo --for 20",
            "atedge watch @plant7ops --receipts",
            "atedge watch @plant7ops --state plant7ops",
            "atedge watch @plant7ops --confirm --receipts --state plant7ops",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }
}
