//! What people see when something is wrong: one clear message, and an exit code that says whose turn it is.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use atedge_service::tls::DevAuthority;

use crate::gateway::{GATEWAY, Gateway, READER};
use crate::process::run as run_command;
use crate::scenario::Run;
use crate::town::{Town, free_address};

const FAILED: i32 = 1;
const CONFIGURATION: i32 = 2;

/// Each mistake of a newcomer, made once.
///
/// # Errors
/// A message or an exit code is not as documented.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = Town::start(&run.folder, &[&[GATEWAY, READER]])?;
    town.onboard(READER)?;
    let mut case = Cases { run, town: &town, count: 0 };
    case.unknown_setting()?;
    case.wrong_type()?;
    case.missing_key_file()?;
    case.unreachable_directory()?;
    case.wrong_certificate()?;
    case.not_activated()?;
    let count = case.count;
    run.note("messages", count);
    Ok(())
}

struct Cases<'a> {
    run: &'a Run,
    town: &'a Town,
    count: u64,
}

impl Cases<'_> {
    /// What the command says on standard error, which has to be all it says, under this exit code.
    fn said(&mut self, name: &str, command: &mut Command, code: i32) -> Result<String> {
        self.run.progress(name);
        let output = run_command("refusals", command, &self.town.folder)?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(code), "{name}: ended with {}, said {said}", output.status);
        ensure!(output.stdout.is_empty(), "{name}: printed {}", String::from_utf8_lossy(&output.stdout));
        self.count += 1;
        Ok(said)
    }

    /// One line, which begins with `error: ` and names these.
    fn one_line(&mut self, name: &str, command: &mut Command, code: i32, names: &[&str]) -> Result<()> {
        let said = self.said(name, command, code)?;
        let whole = said.starts_with("error: ") && said.trim_end().lines().count() == 1;
        ensure!(whole && !said.contains("panicked"), "{name}: not one clear line: {said}");
        for part in names {
            ensure!(said.contains(part), "{name}: {said:?} does not say {part}");
        }
        Ok(())
    }

    fn agent(&self, tables: &str) -> Result<Gateway> {
        Gateway::new(self.town, tables)
    }

    /// Where the agent's configuration says this.
    fn line_of(&self, text: &str) -> Result<(String, usize)> {
        let path = self.town.folder.join("agent.toml");
        let config = std::fs::read_to_string(&path)?;
        let line = config.lines().position(|line| line == text).context("the line was just written")?;
        Ok((path.display().to_string(), line + 1))
    }

    fn unknown_setting(&mut self) -> Result<()> {
        let wrong = "maxx = \"32MiB\"";
        let agent = self.agent(&format!("[outbox]\n{wrong}\n"))?;
        for mut command in [agent.check(), agent.run()] {
            let said = self.said("unknown setting", &mut command, CONFIGURATION)?;
            let (path, line) = self.line_of(wrong)?;
            let margin = " ".repeat(line.to_string().len());
            let expected = format!(
                "error: unknown setting `maxx`\n {margin}--> {path}:{line}:1\n {margin} |\n {line} | {wrong}\n \
                 {margin} | ^^^^ expected `max`\n1 error. The running configuration is unchanged.\n"
            );
            ensure!(said == expected, "an unknown setting is reported as\n{said}instead of\n{expected}");
        }
        Ok(())
    }

    fn wrong_type(&mut self) -> Result<()> {
        let wrong = "max = 512";
        let mut command = self.agent(&format!("[outbox]\n{wrong}\n"))?.check();
        let said = self.said("wrong type", &mut command, CONFIGURATION)?;
        let (path, line) = self.line_of(wrong)?;
        let lines: Vec<&str> = said.lines().collect();
        let framed = lines.len() == 6
            && lines[0].starts_with("error: ")
            && lines[1].ends_with(&format!("--> {path}:{line}:7"))
            && lines[3].ends_with(&format!("{line} | {wrong}"))
            && lines[4].contains("|       ^^^ expected ")
            && lines[5] == "1 error. The running configuration is unchanged.";
        ensure!(framed, "a wrong type is reported as\n{said}");
        Ok(())
    }

    fn missing_key_file(&mut self) -> Result<()> {
        let missing = self.town.keys(GATEWAY);
        ensure!(!missing.exists(), "{GATEWAY} has no keys in this scenario");
        let path = missing.to_str().context("a path in UTF-8")?.to_owned();
        let mut agent = self.agent("")?.run();
        let said = self.said("agent without its key file", &mut agent, CONFIGURATION)?;
        ensure!(said.starts_with("error: ") && said.contains(&path), "a missing key file: {said}");
        let mut tool = self.town.tool(&["scan", GATEWAY])?;
        self.one_line("tool without its key file", &mut tool, FAILED, &[&path])
    }

    fn unreachable_directory(&mut self) -> Result<()> {
        let nowhere = format!("localhost:{}", free_address()?.port());
        let mut tool = self.town.tool(&["scan", READER, "--directory", &nowhere])?;
        self.one_line("unreachable directory", &mut tool, FAILED, &["directory", &nowhere])
    }

    fn wrong_certificate(&mut self) -> Result<()> {
        let other = DevAuthority::open_or_create(&self.run.subfolder("other-ca")?, &[])?;
        let mut tool = self.town.tool(&["scan", READER])?;
        self.one_line("wrong certificate", tool.env("ATEDGE_CA", other.ca()), FAILED, &["certificate"])
    }

    fn not_activated(&mut self) -> Result<()> {
        // Somebody else's keys, since an atSign that was never activated has none.
        let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/at-protocol/fixtures/python.atKeys");
        let mut tool = self.town.tool(&["scan", GATEWAY, "--keys", keys])?;
        self.one_line("as one who is not activated", &mut tool, FAILED, &[GATEWAY, "activated"])?;
        let mut tool = self.town.tool(&["put", READER, "@gw:phone.plant7", "+1 555"])?;
        self.one_line("for one who is not activated", &mut tool, FAILED, &[GATEWAY, "activated"])
    }
}
