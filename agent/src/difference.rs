//! What is different between two configurations. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What changed among tables of one kind, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Were not there.
    pub added: Vec<String>,
    /// Say something else.
    pub changed: Vec<String>,
    /// Are there no more.
    pub removed: Vec<String>,
}

impl Changes {
    fn between(before: Option<&Value>, after: Option<&Value>) -> Self {
        let nothing = Map::new();
        let before = before.and_then(Value::as_object).unwrap_or(&nothing);
        let after = after.and_then(Value::as_object).unwrap_or(&nothing);
        let mut changes = Self::default();
        for (name, table) in after {
            match before.get(name) {
                None => changes.added.push(name.clone()),
                Some(was) if was != table => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        changes.removed.extend(before.keys().filter(|name| !after.contains_key(*name)).cloned());
        changes
    }

    /// Whether all tables say the same as before.
    pub const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// What a running agent has to change to follow its configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Adapters. Those that are not named here are not touched.
    pub adapters: Changes,
    /// Streams.
    pub streams: Changes,
    /// Commands.
    pub commands: Changes,
    /// Whether the queue's settings are others.
    pub outbox: bool,
}

/// A setting that a running agent cannot change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Where it is: the table and, if it is one setting of it, its name.
    pub path: Vec<String>,
}

/// The tables that can be followed.
const FOLLOWED: [&str; 5] = ["adapter", "defaults", "stream", "command", "outbox"];

impl Difference {
    /// What to change, from the tables of the configuration `before` to those of the one `after`.
    ///
    /// # Errors
    /// Names the first setting that cannot change while the agent runs.
    pub fn between(before: &Value, after: &Value) -> Result<Self, Fixed> {
        if let Some(path) = first_fixed(before, after) {
            return Err(Fixed { path });
        }
        let changes = |table| Changes::between(before.get(table), after.get(table));
        let mut adapters = changes("adapter");
        if before.get("defaults") != after.get("defaults") {
            // Each may have taken something over from them.
            let names = after.get("adapter").and_then(Value::as_object).into_iter().flat_map(Map::keys);
            adapters.changed = names.filter(|name| !adapters.added.contains(name)).cloned().collect();
        }
        Ok(Self {
            adapters,
            streams: changes("stream"),
            commands: changes("command"),
            outbox: before.get("outbox") != after.get("outbox"),
        })
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The path of the first setting outside the tables that can be followed that differs.
fn first_fixed(before: &Value, after: &Value) -> Option<Vec<String>> {
    let keys = |value: &Value| -> Vec<String> {
        value.as_object().into_iter().flat_map(Map::keys).cloned().collect()
    };
    let different = |before: &Value, after: &Value| {
        let mut names = [keys(after), keys(before)].concat();
        names.retain(|name| before.get(name) != after.get(name));
        names
    };
    let table = different(before, after).into_iter().find(|name| !FOLLOWED.contains(&name.as_str()))?;
    let (was, is) = (&before[&table], &after[&table]);
    let setting = different(was, is).into_iter().next();
    Some([table].into_iter().chain(setting).collect())
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { adapters, streams, commands, outbox } = self;
        let mut parts = Vec::new();
        for (one, more, changes) in [
            ("adapter", "adapters", adapters),
            ("stream", "streams", streams),
            ("command", "commands", commands),
        ] {
            let Changes { added, changed, removed } = changes;
            for (what, names) in [("added", added), ("changed", changed), ("removed", removed)] {
                match names.as_slice() {
                    [] => {}
                    [name] => parts.push(format!("{one} {name} {what}")),
                    names => parts.push(format!("{more} {} {what}", names.join(", "))),
                }
            }
        }
        if *outbox {
            parts.push("[outbox] changed".to_owned());
        }
        match parts.as_slice() {
            [] => write!(out, "nothing has changed"),
            parts => write!(out, "{}", parts.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tables() -> Value {
        json!({
            "schema": 1,
            "gateway": { "atsign": "@gw", "keys": "file:k" },
            "adapter": { "shop": { "type": "mqtt", "url": "mqtt://a" }, "scale": { "type": "serial", "baud": 9600 } },
            "stream": { "process": { "to": ["@ops"] } },
        })
    }

    fn after(change: impl FnOnce(&mut Value)) -> Result<Difference, Fixed> {
        let mut after = tables();
        change(&mut after);
        Difference::between(&tables(), &after)
    }

    #[test]
    fn only_what_says_something_else_is_named() {
        let nothing = after(|_| {}).unwrap();
        assert!(nothing.is_empty());
        assert_eq!(nothing.to_string(), "nothing has changed");
        let difference = after(|tables| {
            tables["adapter"]["shop"]["url"] = json!("mqtt://b");
            tables["adapter"]["meter"] = json!({ "type": "modbus-tcp" });
            tables["adapter"].as_object_mut().unwrap().remove("scale");
            tables["stream"]["process"]["to"] = json!(["@ops", "@lab"]);
            tables["command"] = json!({ "boiler.set": {}, "boiler.stop": {} });
            tables["outbox"] = json!({ "max": "1GiB" });
        })
        .unwrap();
        let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
        assert_eq!(
            difference.adapters,
            Changes { added: names(&["meter"]), changed: names(&["shop"]), removed: names(&["scale"]) }
        );
        assert_eq!(difference.streams, Changes { changed: names(&["process"]), ..Changes::default() });
        assert_eq!(
            difference.to_string(),
            "adapter meter added; adapter shop changed; adapter scale removed; stream process changed; \
             commands boiler.set, boiler.stop added; [outbox] changed"
        );
    }

    #[test]
    fn other_defaults_change_all_adapters() {
        let difference = after(|tables| {
            tables["defaults"] = json!({ "interval": "9s" });
            tables["adapter"]["meter"] = json!({ "type": "modbus-tcp" });
        })
        .unwrap();
        assert_eq!(difference.to_string(), "adapter meter added; adapters shop, scale changed");
    }

    #[test]
    fn the_order_of_settings_says_nothing() {
        let other = json!({
            "adapter": { "scale": { "baud": 9600, "type": "serial" }, "shop": { "url": "mqtt://a", "type": "mqtt" } },
            "stream": { "process": { "to": ["@ops"] } },
            "gateway": { "keys": "file:k", "atsign": "@gw" },
            "schema": 1,
        });
        assert!(Difference::between(&tables(), &other).unwrap().is_empty());
    }

    #[test]
    fn who_the_gateway_is_cannot_change_while_it_runs() {
        for (change, path) in [
            (json!({ "atsign": "@other", "keys": "file:k" }), vec!["gateway", "atsign"]),
            (json!({ "atsign": "@gw" }), vec!["gateway", "keys"]),
            (json!({ "atsign": "@gw", "keys": "file:k", "ca": "ca.pem" }), vec!["gateway", "ca"]),
        ] {
            let fixed = after(|tables| tables["gateway"] = change).unwrap_err();
            assert_eq!(fixed.path, path);
        }
        let boiler = json!({ "boiler": { "atsign": "@boiler07", "keys": "file:k" } });
        let fixed = after(|tables| tables["device"] = boiler).unwrap_err();
        assert_eq!(fixed.path, ["device", "boiler"]);
        let fixed = after(|tables| tables["metrics"] = json!({ "listen": "127.0.0.1:1" })).unwrap_err();
        assert_eq!(fixed.path, ["metrics", "listen"], "what nobody follows is refused as well");
    }
}
