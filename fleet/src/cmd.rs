//! `cmd`: calls a device's command and follows it to its end.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use at_client::{CallRequest, CallState, Client};
use at_protocol::{AtSign, Timestamp};
use atedge_service::Exit;
use serde_json::{Map, Value, json};

use crate::cli::Cmd;
use crate::output::Output;

/// A command to a gateway, ready to be sent.
#[derive(Debug, Clone)]
pub struct Order {
    /// The gateway.
    pub gateway: AtSign,
    /// The fleet's namespace.
    pub namespace: String,
    /// The device.
    pub device: String,
    /// The command, as the gateway's configuration declares it.
    pub command: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
    /// How long to wait; the gateway refuses it afterwards.
    pub wait: Duration,
    /// Names it: the same key twice is done once.
    pub key: String,
}

/// Sends the command, prints a line a state, and ends as it ended.
///
/// # Errors
/// The command line makes no sense, or the own server does not take the command.
pub async fn run(args: Cmd) -> Result<Exit> {
    let (device, command) = args.command.split_once('.').with_context(|| {
        format!("{:?} names no command: write DEVICE.COMMAND, such as boiler.setpoint", args.command)
    })?;
    let order = Order {
        gateway: args.gateway,
        namespace: args.namespace,
        device: device.to_owned(),
        command: command.to_owned(),
        arguments: arguments(&args.arguments)?,
        wait: args.wait,
        key: match args.key {
            Some(key) => key,
            None => fresh_key()?,
        },
    };
    let client = args.access.client(&args.caller)?;
    let output = Output::new(args.access.json);
    let last = order.send(&client, |state| say_state(output, &order, state)).await?;
    Ok(match last {
        Some(CallState::Done { .. }) => Exit::Done,
        Some(CallState::Failed { .. } | CallState::Rejected { .. }) => Exit::Failed,
        Some(CallState::Delivered | CallState::Accepted { .. } | CallState::Unanswered) | None => {
            Exit::NotDelivered
        }
    })
}

impl Order {
    /// Sends it and tells `each` of every state; gives the last.
    ///
    /// # Errors
    /// The own server does not take the command, or `each` fails.
    pub async fn send(
        &self,
        client: &Client,
        mut each: impl FnMut(&CallState) -> Result<()>,
    ) -> Result<Option<CallState>> {
        let issued = Timestamp::from(SystemTime::now());
        let lifetime = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        let payload = json!({
            "command": self.command,
            "args": self.arguments,
            "issued": issued.as_millis(),
            "expires": issued.plus_millis(lifetime).as_millis(),
            "key": self.key,
        });
        let domain = format!("cmd.{}", self.device);
        let request = CallRequest {
            to: &self.gateway,
            domain: &domain,
            base: &self.namespace,
            payload,
            wait: self.wait,
        };
        let mut call = client.call(request).await?;
        let mut last = None;
        while let Some(state) = call.next().await? {
            each(&state)?;
            last = Some(state);
        }
        Ok(last)
    }
}

/// A key that no other command has.
///
/// # Errors
/// The system gives no random numbers.
pub(crate) fn fresh_key() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(hex::encode(bytes))
}

fn arguments(typed: &[String]) -> Result<Map<String, Value>> {
    let mut arguments = Map::new();
    for argument in typed {
        let Some((name, text)) = argument.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            bail!("{argument:?} is no argument: write NAME=VALUE, such as value=62");
        };
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
        if arguments.insert(name.to_owned(), value).is_some() {
            bail!("the argument {name} is given twice");
        }
    }
    Ok(arguments)
}

/// Prints a line for a state.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn say_state(output: Output, order: &Order, state: &CallState) -> Result<()> {
    let (word, payload, message) = match state {
        CallState::Delivered => ("delivered", &Value::Null, None),
        CallState::Accepted { payload } => ("accepted", payload, None),
        CallState::Done { payload } => ("done", payload, None),
        CallState::Failed { payload, message } => ("failed", payload, message.as_deref()),
        CallState::Rejected { payload, message } => ("rejected", payload, message.as_deref()),
        CallState::Unanswered => (
            "unknown",
            &Value::Null,
            Some("no outcome came in time; the device may still act until the command expires"),
        ),
    };
    output.say(
        || match message {
            Some(message) => format!("{}.{} {word}: {message}", order.device, order.command),
            None => format!("{}.{} {word}", order.device, order.command),
        },
        || json!({ "command": format!("{}.{}", order.device, order.command), "key": order.key, "state": word, "payload": payload, "message": message }),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_where_they_read_as_json() {
        let typed = ["value=62", "on=true", "text=hello", "quoted=\"62\"", "eq=a=b"].map(str::to_owned);
        let arguments = arguments(&typed).unwrap();
        assert_eq!(
            Value::Object(arguments),
            json!({ "value": 62, "on": true, "text": "hello", "quoted": "62", "eq": "a=b" })
        );
    }

    #[test]
    fn what_is_no_argument_is_refused() {
        for typed in [vec!["62"], vec!["=62"], vec!["a=1", "a=2"]] {
            let typed: Vec<String> = typed.into_iter().map(str::to_owned).collect();
            assert!(arguments(&typed).is_err(), "{typed:?}");
        }
        assert_ne!(fresh_key().unwrap(), fresh_key().unwrap());
    }
}
