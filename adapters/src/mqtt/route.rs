//! From a publication to a reading: which device, which stream, which points.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::topic::TopicPattern;
use crate::decode::{Decode, Decoder, IdFrom, Pointer, TimeFrom};
use crate::{DeviceName, InvalidName, PointName, Reading, Refusal, StreamName};

/// Which publications become readings, and how: a table `[adapter.NAME.route.ROUTE]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The topics, with MQTT's wildcards `+` and `#`; `{name}` stands for one level and remembers it.
    /// The topics of two routes of one adapter may not overlap.
    pub topic: TopicPattern,
    /// The device: a name, a capture of the topic as in `"{dev}"`, or both as in `"pump-{n}"`. A
    /// publication that gives no valid name is refused and counted.
    pub device: DeviceTemplate,
    /// The stream its readings belong to.
    pub stream: StreamName,
    /// How the payload is written.
    pub decode: Decode,
    /// Point names, and where in a JSON document their values stand (JSON Pointer).
    #[serde(default)]
    pub pick: BTreeMap<PointName, Pointer>,
    /// The points' units, as SenML writes them (RFC 8428 §12.1).
    #[serde(default)]
    pub units: BTreeMap<PointName, String>,
    /// Where the device's own time stands in a JSON document.
    pub time: Option<TimeFrom>,
    /// Where the device's own id of a reading stands in a JSON document. With it, a publication that
    /// is delivered twice is kept once, whatever happens.
    pub id: Option<IdFrom>,
}

/// Why a route makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// The device is made of a capture that the topic does not have.
    #[error("the device is made of {{{name}}}, which is not in the topic")]
    NoSuchCapture {
        /// The capture's name.
        name: String,
    },
    /// A setting that only JSON payloads can have.
    #[error("`{setting}` needs `decode = {{ as = \"json\" }}`")]
    NeedsJson {
        /// `pick`, `time` or `id`.
        setting: &'static str,
    },
}

impl Route {
    pub(super) fn check(&self) -> Result<(), InvalidRoute> {
        if let Some(name) = self.device.captures().find(|name| !self.topic.has(name)) {
            return Err(InvalidRoute::NoSuchCapture { name: name.to_owned() });
        }
        let only_for_json =
            [("pick", !self.pick.is_empty()), ("time", self.time.is_some()), ("id", self.id.is_some())];
        match only_for_json.into_iter().find(|(_, used)| *used) {
            Some((setting, _)) if !matches!(self.decode, Decode::Json {}) => {
                Err(InvalidRoute::NeedsJson { setting })
            }
            _ => Ok(()),
        }
    }
}

/// A device's name, or how to make it of what the topic captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTemplate(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Capture(String),
}

impl DeviceTemplate {
    fn captures(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Capture(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    fn fill(&self, pattern: &TopicPattern, topic: &str) -> Result<DeviceName, InvalidName> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Capture(name) => pattern.captured(name, topic).unwrap_or_default(),
            })
            .collect::<String>()
            .parse()
    }
}

impl FromStr for DeviceTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or("a `{` has no `}`")?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Capture(name.to_owned()));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        let texts: String = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Capture(_) => "x",
            })
            .collect();
        texts.parse::<DeviceName>().map_err(|error| error.to_string())?;
        Ok(Self(parts))
    }
}

impl fmt::Display for DeviceTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Capture(name) => write!(f, "{{{name}}}"),
        })
    }
}

impl<'de> Deserialize<'de> for DeviceTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// All routes of one adapter, at work.
#[derive(Debug)]
pub(super) struct Routes {
    routes: Vec<(TopicPattern, DeviceTemplate, StreamName, Decoder)>,
    max: usize,
}

impl Routes {
    /// `max` is the largest payload taken, in bytes.
    pub(super) fn new(routes: impl IntoIterator<Item = Route>, max: usize) -> Self {
        let routes = routes
            .into_iter()
            .map(|route| {
                let Route { topic, device, stream, decode, pick, units, time, id } = route;
                (topic, device, stream, Decoder { decode, pick, time, id, device: None, units })
            })
            .collect();
        Self { routes, max }
    }

    /// What to subscribe to.
    pub(super) fn filters(&self) -> Vec<String> {
        self.routes.iter().map(|(topic, ..)| topic.filter().to_string()).collect()
    }

    /// Makes a reading, without `delivery`, of a publication; else says whose it was and why not.
    pub(super) fn read(&self, topic: &str, payload: &[u8]) -> Result<Reading, (Option<DeviceName>, Refusal)> {
        let Some((pattern, device, stream, decoder)) =
            self.routes.iter().find(|(pattern, ..)| pattern.filter().matches(topic))
        else {
            return Err((None, Refusal::NoRoute { topic: topic.chars().take(128).collect() }));
        };
        let device = device.fill(pattern, topic).map_err(|name| (None, name.into()))?;
        if payload.len() > self.max {
            let why = Refusal::TooLarge { bytes: payload.len(), max: self.max };
            return Err((Some(device), why));
        }
        match decoder.decode(payload) {
            Ok(decoded) => Ok(Reading {
                device,
                stream: stream.clone(),
                points: decoded.points,
                time: decoded.time,
                device_id: decoded.device_id,
                delivery: None,
            }),
            Err(error) => Err((Some(device), error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(toml: &str) -> Route {
        toml::from_str(&format!("topic = \"site/{{line}}/{{dev}}\"\nstream = \"process\"\n{toml}")).unwrap()
    }

    fn json(device: &str) -> Route {
        route(&format!("device = \"{device}\"\ndecode = {{ as = \"json\" }}"))
    }

    #[test]
    fn the_device_comes_from_the_topic() {
        let routes = Routes::new([json("{line}-{dev}")], 100);
        let reading = routes.read("site/a/boiler", br#"{"t":1}"#).unwrap();
        assert_eq!(reading.device.as_str(), "a-boiler");
        assert_eq!(routes.filters(), ["site/+/+"]);
    }

    #[test]
    fn what_fits_no_route_or_name_or_size_is_refused() {
        let routes = Routes::new([json("{dev}")], 10);
        let (device, why) = routes.read("elsewhere", b"{}").unwrap_err();
        assert!(device.is_none() && why.kind() == "route");
        let (device, why) = routes.read("site/a/Boiler 1", br#"{"t":1}"#).unwrap_err();
        assert!(device.is_none() && why.kind() == "name", "{why}");
        let (device, why) = routes.read("site/a/boiler", br#"{"temp":100}"#).unwrap_err();
        assert!(device.is_some() && why.kind() == "size");
        let (_, why) = routes.read("site/a/boiler", b"{").unwrap_err();
        assert_eq!(why.kind(), "decode");
    }

    #[test]
    fn routes_that_make_no_sense_are_found() {
        assert_eq!(json("{site}").check(), Err(InvalidRoute::NoSuchCapture { name: "site".into() }));
        let text = "device = \"x\"\ndecode = { as = \"text\" }\n";
        assert_eq!(route(text).check(), Ok(()));
        let picky = format!("{text}pick = {{ a = \"/a\" }}");
        assert_eq!(route(&picky).check(), Err(InvalidRoute::NeedsJson { setting: "pick" }));
        let timed = format!("{text}time = {{ from = \"/t\", as = \"unix_s\" }}");
        assert_eq!(route(&timed).check(), Err(InvalidRoute::NeedsJson { setting: "time" }));
    }

    #[test]
    fn device_templates_are_checked_when_read() {
        for text in ["", "Boiler", "a{b", "a.{b}"] {
            assert!(text.parse::<DeviceTemplate>().is_err(), "{text:?} was taken");
        }
        assert_eq!("pump-{n}".parse::<DeviceTemplate>().unwrap().to_string(), "pump-{n}");
    }
}
