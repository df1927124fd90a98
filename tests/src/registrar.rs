//! The registrar of a fleet, as an operator has it: a key in a file, and what it grants to nodes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::{program, run};

/// Who says which node may serve which atSigns.
pub struct Registrar {
    folder: PathBuf,
    key: String,
    atsigns: Vec<String>,
}

impl Registrar {
    /// A new one for these atSigns, whose key is kept in this folder.
    ///
    /// # Errors
    /// The tool fails.
    pub fn init(folder: &Path, atsigns: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut registrar =
            Self { folder: folder.to_owned(), key: String::new(), atsigns: atsigns.into_iter().collect() };
        let said = registrar.tool("init", &[])?;
        let key = said.lines().find(|line| line.starts_with("ed25519:")).context("no public key")?;
        registrar.key = key.to_owned();
        Ok(registrar)
    }

    /// Its public key, which all trust.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What a server is told about it, and under which address it serves whom it was granted.
    #[must_use]
    pub fn server_tables(&self, host: &str, grant: &Path) -> String {
        format!(
            "[server]\nhost = {host:?}\nregistrars = [{{ key = {:?}, atsigns = {:?} }}]\nnode_grant = {grant:?}\n",
            self.key, self.atsigns
        )
    }

    /// What a directory is told about it.
    #[must_use]
    pub fn directory_tables(&self) -> String {
        format!("[[registrar]]\nkey = {:?}\natsigns = {:?}\n", self.key, self.atsigns)
    }

    /// Grants all to the node whose `atedge-server node --json` this command is; gives the grant's file.
    ///
    /// # Errors
    /// The node has no key, or the tool fails.
    pub fn grant(&self, name: &str, node: &mut Command) -> Result<PathBuf> {
        let shown = run("node", node, &self.folder)?;
        ensure!(shown.status.success(), "no node key: {}", String::from_utf8_lossy(&shown.stderr));
        let shown: Value = serde_json::from_slice(&shown.stdout)?;
        let key = shown["node"].as_str().context("a node's key")?;
        let file = self.folder.join(format!("{name}.grant"));
        let out = file.to_str().context("a path in UTF-8")?;
        let patterns = self.atsigns.join(",");
        self.tool("grant", &["--node", key, "--atsigns", &patterns, "--for", "365d", "--out", out])?;
        Ok(file)
    }

    fn tool(&self, what: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("atedge")?);
        command.args(["registrar", what, "--key"]).arg(self.folder.join("registrar.key")).args(arguments);
        let done = run("registrar", &mut command, &self.folder)?;
        ensure!(done.status.success(), "registrar {what}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8(done.stdout)?)
    }
}
