//! A changed configuration becomes what runs: what differs is changed, in the order of the flow, and nothing
//! else is touched.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use atedge_adapters::AdapterConfig;
use atedge_service::Notifier;
use atedge_service::config::{ConfigError, layered};
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::commands::{CommandName, Declared, Rule};
use crate::config::{self, Loaded};
use crate::difference::{Difference, Fixed};
use crate::field::Field;
use crate::outbox::Outbox;
use crate::uplink::SendRules;

/// What runs, and what it was made from.
pub struct Following<C> {
    /// The configuration's main file.
    pub file: PathBuf,
    /// What runs was made from these tables.
    pub tables: Value,
    /// The declared commands.
    pub rules: Arc<BTreeMap<CommandName, Rule>>,
    /// The folder of the outbox.
    pub state: PathBuf,
    /// The queue.
    pub outbox: Outbox,
    /// The adapters.
    pub field: Field<C>,
    /// Tells the intakes and the uplink.
    pub sending: watch::Sender<SendRules>,
    /// Tells who carries out commands.
    pub declared: watch::Sender<Declared>,
}

/// Why a changed configuration is not followed. What runs is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It does not check, or asks for what only a restart can do.
    #[error("{0}")]
    Refused(#[from] ConfigError),
    /// The disk is full, say.
    #[error(
        "the queue could not take the new settings: {0}; mend that and try again.\nThe running configuration is unchanged."
    )]
    Queue(#[from] crate::outbox::OutboxError),
}

impl<C: Clock + 'static> Following<C> {
    /// Reads the configuration again and follows it. The inner result is the answer to whoever asked.
    ///
    /// # Errors
    /// When the agent cannot go on.
    pub async fn reload(&mut self) -> anyhow::Result<Result<Difference, ReloadError>> {
        Notifier.reloading();
        let reloaded = match self.read() {
            Ok((loaded, difference)) => self.follow(loaded, difference).await?,
            Err(error) => Err(error.into()),
        };
        match &reloaded {
            Ok(difference) => info!(%difference, "reloaded the configuration"),
            Err(error) => warn!("cannot reload the configuration\n{error}"),
        }
        Notifier.ready();
        Ok(reloaded)
    }

    fn read(&self) -> Result<(Loaded, Difference), ConfigError> {
        let loaded = config::load(&layered(&self.file))?;
        let difference = Difference::between(&self.tables, &loaded.tables).map_err(|Fixed { path }| {
            let path: Vec<&str> = path.iter().map(String::as_str).collect();
            let title = format!("`{}` cannot change while the agent runs", path.join("."));
            let cure = "restart needed: `systemctl restart atedge-agent`, or set it back";
            loaded.sources.complaint(&path, &title, cure)
        })?;
        Ok((loaded, difference))
    }

    /// First what can fail: then nothing has changed.
    async fn follow(
        &mut self,
        loaded: Loaded,
        difference: Difference,
    ) -> anyhow::Result<Result<Difference, ReloadError>> {
        let Loaded { config, rules, tables, .. } = loaded;
        if difference.is_empty() {
            return Ok(Ok(difference));
        }
        let is_about_queue = difference.outbox || !difference.streams.is_empty();
        if is_about_queue
            && let Err(error) = self.outbox.configure(config.outbox_options(self.state.clone())).await
        {
            return Ok(Err(error.into()));
        }
        let adapters = &difference.adapters;
        self.field.stop(&[adapters.removed.as_slice(), &adapters.changed].concat()).await?;
        adapters.removed.iter().for_each(|name| self.field.tallies().forget(name));
        if is_about_queue {
            self.sending.send_replace(config.send_rules());
        }
        self.start(adapters.changed.iter().chain(&adapters.added), &config.adapter)?;
        self.rules = Arc::new(rules);
        self.tables = tables;
        self.declare();
        Ok(Ok(difference))
    }

    /// Starts those of `adapters` that are named.
    ///
    /// # Errors
    /// When one's settings make no sense, which the configuration's check has excluded.
    pub fn start<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a String>,
        adapters: &BTreeMap<String, AdapterConfig>,
    ) -> anyhow::Result<()> {
        for name in names {
            if let Some(config) = adapters.get(name) {
                self.field.start(name, config.clone())?;
            }
        }
        Ok(())
    }

    /// Lets commands reach the adapters that run now.
    pub fn declare(&self) {
        self.declared
            .send_replace(Declared { rules: Arc::clone(&self.rules), adapters: self.field.orders() });
    }
}

#[cfg(test)]
mod tests;
