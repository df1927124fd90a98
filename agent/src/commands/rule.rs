//! What may be asked for, by whom, and what it does. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration as StdDuration;

use at_protocol::AtSign;
use atedge_adapters::units::Duration;
use atedge_adapters::{AdapterConfig, Order, Verify};
use serde_json::Value;

use super::call::{Call, State};
use super::declared::{
    ArgConfig, CommandConfig, EffectConfig, PublishConfig, Signed, Target, VerifyConfig, WriteConfig,
};
use super::template::{Template, is_name};
use crate::clock::Stamp;
use crate::payload::ClockState;

/// A caller's clock may be this far ahead of ours.
const SKEW: StdDuration = StdDuration::from_secs(60);
/// Longest text argument, in characters, where the rule names none.
const MAX_TEXT: usize = 64;
/// The longest time to verify: an adapter that has not answered some seconds later has failed.
const MOST_VERIFY: StdDuration = StdDuration::from_secs(25);

/// A rule that has the right form and makes no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleError {
    /// The setting, from the command's table on.
    pub(crate) setting: String,
    /// What is wrong with it.
    pub(crate) what: String,
    /// What to write instead.
    pub(crate) expected: String,
}

/// A declared command, checked.
#[derive(Debug, Clone)]
pub struct Rule {
    allow: Vec<AtSign>,
    args: BTreeMap<String, ArgConfig>,
    effect: Effect,
    /// The adapter that does it.
    pub(super) adapter: String,
    expires: StdDuration,
    /// How long a call is remembered.
    pub(super) once: StdDuration,
    /// Whether doing it twice is as good as once.
    pub(super) idempotent: bool,
}

#[derive(Debug, Clone)]
enum Effect {
    Publish { topic: Template, payload: Template },
    Send(Template),
    Write { target: Target, value: Template, verify: Option<Verify> },
}

/// Why a call is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// An argument that the command does not have.
    #[error("there is no argument {0:?}")]
    UnknownArgument(String),
    /// An argument that was not given.
    #[error("the argument {0:?} is missing")]
    MissingArgument(String),
    /// An argument of another type, or out of its range.
    #[error("the argument {name:?} must be {expected}")]
    Argument {
        /// Its name.
        name: String,
        /// What it must be.
        expected: String,
    },
    /// It comes after its expiry.
    #[error("the command has expired")]
    Expired,
    /// It would be valid for longer than the rule allows.
    #[error("the command may be valid for {0} at most")]
    TooLong(Duration),
    /// Our clock is not set, so nobody knows whether it has expired.
    #[error("the gateway's clock is not set")]
    ClockNotSet,
}

impl Rejection {
    /// What the caller is told.
    pub(super) fn state(&self) -> State {
        match self {
            Self::Expired => State::Expired,
            Self::UnknownArgument(_)
            | Self::MissingArgument(_)
            | Self::Argument { .. }
            | Self::TooLong(_)
            | Self::ClockNotSet => State::Rejected,
        }
    }
}

impl Rule {
    /// Checks `config`, whose adapter is one of `adapters`.
    pub(crate) fn new(
        config: &CommandConfig,
        adapters: &BTreeMap<String, AdapterConfig>,
    ) -> Result<Self, RuleError> {
        let wrong = |setting: &str, what: &str, expected: &str| {
            Err(RuleError { setting: setting.into(), what: what.into(), expected: expected.into() })
        };
        match config.signed {
            Signed::Yes | Signed::Tofu => {
                return wrong("signed", "signed commands are not available yet", "expected `false`");
            }
            Signed::No => {}
        }
        if config.allow.is_empty() {
            return wrong("allow", "nobody may call it", "expected at least one atSign");
        }
        if config.once < config.expires {
            return wrong(
                "once",
                "calls are forgotten before they expire",
                "expected at least as long as `expires`",
            );
        }
        for (name, arg) in &config.args {
            if let Some(what) = arg.nonsense(name) {
                return wrong(&format!("args.{name}"), &what, "");
            }
        }
        let (mut effect, templates) = Effect::new(&config.effect);
        for (setting, template) in &templates {
            if let Some(place) = template.places().find(|place| !config.args.contains_key(*place)) {
                return wrong(setting, &format!("there is no argument `{place}`"), "expected one of `args`");
            }
        }
        let adapter = effect.choose(config.adapter.as_deref(), adapters)?;
        if let Some(verify) = &config.verify {
            effect.verify(verify, adapters.get(&adapter))?;
        }
        Ok(Self {
            allow: config.allow.clone(),
            args: config.args.clone(),
            effect,
            adapter,
            expires: config.expires.get(),
            once: config.once.get(),
            idempotent: config.idempotent,
        })
    }

    /// Whether `caller` may call it.
    pub fn allows(&self, caller: &AtSign) -> bool {
        self.allow.contains(caller)
    }

    /// What is to be done for `call` at `now`.
    ///
    /// # Errors
    /// When it is not to be done.
    pub fn decide(&self, call: &Call, now: Stamp) -> Result<Order, Rejection> {
        if now.state == ClockState::Free {
            return Err(Rejection::ClockNotSet);
        }
        if call.expires <= now.wall_ms() {
            return Err(Rejection::Expired);
        }
        let longest = i64::try_from(self.expires.as_millis()).unwrap_or(i64::MAX);
        let skew = i64::try_from(SKEW.as_millis()).unwrap_or(0);
        let valid_for = call.expires.saturating_sub(call.issued);
        let left = call.expires.saturating_sub(now.wall_ms());
        if valid_for > longest || left > longest.saturating_add(skew) {
            let most = u64::try_from(longest).unwrap_or(0);
            return Err(Rejection::TooLong(Duration::from_millis(most)));
        }
        if let Some(name) = call.args.keys().find(|name| !self.args.contains_key(*name)) {
            return Err(Rejection::UnknownArgument(name.chars().take(64).collect()));
        }
        let value = |(name, arg): (&String, &ArgConfig)| {
            let given = call.args.get(name).ok_or_else(|| Rejection::MissingArgument(name.clone()))?;
            let text = arg
                .text(given)
                .ok_or_else(|| Rejection::Argument { name: name.clone(), expected: arg.to_string() })?;
            Ok((name.clone(), text))
        };
        let values: BTreeMap<String, String> = self.args.iter().map(value).collect::<Result<_, _>>()?;
        Ok(match &self.effect {
            Effect::Publish { topic, payload } => {
                Order::Publish { topic: topic.fill(&values), payload: payload.fill(&values).into_bytes() }
            }
            Effect::Send(template) => Order::Send { bytes: template.fill(&values).into_bytes() },
            Effect::Write { target: Target { device, point }, value, verify } => Order::Write {
                device: device.clone(),
                point: point.clone(),
                value: value.fill(&values),
                verify: verify.clone(),
            },
        })
    }
}

impl Effect {
    fn new(config: &EffectConfig) -> (Self, Vec<(&'static str, Template)>) {
        match config {
            EffectConfig::Publish(PublishConfig { topic, payload }) => {
                let (topic, payload) = (Template::parse(topic), Template::parse(payload));
                let all = vec![("do.publish.topic", topic.clone()), ("do.publish.payload", payload.clone())];
                (Self::Publish { topic, payload }, all)
            }
            EffectConfig::Send(text) => {
                let template = Template::parse(text);
                (Self::Send(template.clone()), vec![("do.send", template)])
            }
            EffectConfig::Write(WriteConfig { point, value }) => {
                let value = Template::parse(value);
                let effect = Self::Write { target: point.clone(), value: value.clone(), verify: None };
                (effect, vec![("do.write.value", value)])
            }
        }
    }

    fn fits(&self, adapter: &AdapterConfig) -> bool {
        match self {
            Self::Publish { .. } => matches!(adapter, AdapterConfig::Mqtt(_)),
            Self::Send(_) => matches!(adapter, AdapterConfig::Serial(_) | AdapterConfig::Process(_)),
            Self::Write { target: Target { device, point }, .. } => adapter.can_write(device, point),
        }
    }

    /// Has a write of `adapter` verified.
    fn verify(&mut self, config: &VerifyConfig, adapter: Option<&AdapterConfig>) -> Result<(), RuleError> {
        let wrong = |setting: &str, what: String, expected: &str| {
            Err(RuleError { setting: setting.into(), what, expected: expected.into() })
        };
        let VerifyConfig { read: Target { device, point }, within } = config;
        let Self::Write { verify, .. } = self else {
            return wrong(
                "verify",
                "only what is written can be read back".into(),
                "expected `do = { write = … }`",
            );
        };
        if !adapter.is_some_and(|adapter| adapter.can_read(device, point)) {
            let what = format!("the adapter has no point {device}.{point}");
            return wrong("verify.read", what, "expected a point of the adapter that writes");
        }
        if within.get().is_zero() || within.get() > MOST_VERIFY {
            return wrong("verify.within", format!("{within} is no time for it"), "expected up to \"25s\"");
        }
        *verify = Some(Verify { device: device.clone(), point: point.clone(), within: within.get() });
        Ok(())
    }

    /// The adapter named, or the only one that can do it.
    fn choose(
        &self,
        named: Option<&str>,
        adapters: &BTreeMap<String, AdapterConfig>,
    ) -> Result<String, RuleError> {
        let wrong = |setting: &str, what: String, expected: &str| {
            Err(RuleError { setting: setting.into(), what, expected: expected.into() })
        };
        let able: Vec<&String> =
            adapters.iter().filter(|(_, config)| self.fits(config)).map(|(name, _)| name).collect();
        match (named, able.as_slice()) {
            (Some(name), _) => match adapters.get(name) {
                Some(config) if self.fits(config) => Ok(name.to_owned()),
                Some(_) => wrong(
                    "adapter",
                    format!("the adapter {name} cannot do this"),
                    "expected one of the right type",
                ),
                None => wrong("adapter", format!("there is no adapter {name}"), "expected one with a table"),
            },
            (None, [only]) => Ok((*only).clone()),
            (None, []) => {
                wrong("do", "no adapter can do this".into(), "expected an adapter of the right type")
            }
            (None, _) => {
                wrong("do", "several adapters can do this".into(), "expected `adapter = \"NAME\"` beside it")
            }
        }
    }
}

impl ArgConfig {
    /// What is wrong with the rule itself.
    fn nonsense(&self, name: &str) -> Option<String> {
        let empty = match self {
            Self::F64 { min, max } => min.partial_cmp(max).is_none_or(std::cmp::Ordering::is_gt),
            Self::I64 { min, max } => min > max,
            Self::Bool {} => false,
            Self::String { one_of, max } => {
                let fits = |text: &String| self.text(&Value::String(text.clone())).is_some();
                *max == Some(0) || one_of.as_ref().is_some_and(|all| all.is_empty() || !all.iter().all(fits))
            }
        };
        if !is_name(name) {
            return Some(format!("no argument can be called {name:?}: it has a-z, 0-9 and `_`"));
        }
        empty.then(|| "no value fits".to_owned())
    }

    /// The argument as text, if it fits.
    fn text(&self, value: &Value) -> Option<String> {
        match self {
            Self::F64 { min, max } => {
                value.as_f64().filter(|number| (min..=max).contains(&number)).map(|number| number.to_string())
            }
            Self::I64 { min, max } => {
                value.as_i64().filter(|number| (min..=max).contains(&number)).map(|number| number.to_string())
            }
            Self::Bool {} => value.as_bool().map(|truth| truth.to_string()),
            Self::String { one_of, max } => {
                let text = value.as_str()?;
                let harmless =
                    |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '.' | ':' | '-');
                let fits = text.len() <= max.unwrap_or(MAX_TEXT) && text.chars().all(harmless);
                let listed = one_of.as_ref().is_none_or(|all| all.iter().any(|one| one == text));
                (fits && listed).then(|| text.to_owned())
            }
        }
    }
}

impl fmt::Display for ArgConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F64 { min, max } => write!(out, "a number from {min} to {max}"),
            Self::I64 { min, max } => write!(out, "a whole number from {min} to {max}"),
            Self::Bool {} => out.write_str("true or false"),
            Self::String { one_of: Some(all), .. } => write!(out, "one of {}", all.join(", ")),
            Self::String { one_of: None, max } => {
                let max = max.unwrap_or(MAX_TEXT);
                write!(out, "text of at most {max} letters, digits, spaces and _.:-")
            }
        }
    }
}

#[cfg(test)]
mod tests;
