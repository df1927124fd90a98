//! Playing a history on a node and on the model, and making it short where they differ.

use std::fmt::Write as _;
use std::time::Duration;

use atedge_server::ServerConfig;
use serde_json::{Value, json};

use crate::model::{Flaw, Model};
use crate::steps::{ACTORS, Actor, Op, Step, TENANTS};
use crate::wire::{Still, Wire, keys};

/// Where the node and the model differ.
pub(crate) struct Difference {
    pub(crate) place: usize,
    pub(crate) what: String,
}

/// How long enrollments' notices and the rest of the beginning are remembered.
const BEGINNING: Duration = Duration::from_hours(25);
/// Who says nothing for longer is sent away.
const PATIENCE: Duration = Duration::from_mins(5);
/// Replays that are spent on making a history short.
const REPLAYS: usize = 300;

/// The first step whose answer is not the model's.
pub(crate) fn first_difference(steps: &[Step], flaw: Option<Flaw>) -> Option<Difference> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut stage = Stage::new(steps, flaw).await;
        stage.play(steps).await
    })
}

/// The same difference, or another one, in fewer steps: parts are left out as long as one remains.
pub(crate) fn shortest(steps: &[Step], flaw: Option<Flaw>) -> Vec<Step> {
    let mut steps = steps.to_vec();
    let (mut part, mut replays) = (steps.len() / 2, 0);
    while part > 0 {
        let mut place = 0;
        while place < steps.len() && replays < REPLAYS {
            let mut fewer = steps.clone();
            fewer.drain(place..(place + part).min(steps.len()));
            replays += 1;
            match first_difference(&fewer, flaw) {
                Some(found) => {
                    fewer.truncate(found.place + 1);
                    steps = fewer;
                }
                None => place += part,
            }
        }
        part /= 2;
    }
    steps
}

/// A history as one reads it.
pub(crate) fn told(steps: &[Step]) -> String {
    let mut told = String::new();
    for step in steps {
        match step {
            Step::Say(actor, op) => writeln!(told, "  {:?}: {}", ACTORS[*actor], op.line()),
            Step::Pass(millis) => writeln!(told, "  {millis} ms pass"),
            Step::Sweep => writeln!(told, "  what has expired is removed"),
        }
        .unwrap();
    }
    told
}

struct Stage {
    still: Still,
    model: Model,
    /// A connection for each actor that has something to say.
    wires: Vec<Option<Wire>>,
    /// How long nobody may have said anything.
    silent: Duration,
}

impl Stage {
    async fn new(steps: &[Step], flaw: Option<Flaw>) -> Self {
        let config: ServerConfig = toml::from_str("[enrollment]\nrequests = 100\n").unwrap();
        let still = Still::with(&TENANTS, config).await;
        let mut model = Model::new(&TENANTS, still.node.now().as_millis());
        let mut wires: Vec<Option<Wire>> = ACTORS.iter().map(|_| None).collect();
        let speaks = |place| steps.iter().any(|step| matches!(step, Step::Say(actor, _) if *actor == place));
        for (place, actor) in ACTORS.iter().enumerate() {
            if let Actor::App { tenant, writes } = actor
                && speaks(place)
            {
                wires[place] = Some(enroll(&still, &mut model, tenant, *writes).await);
            }
        }
        tokio::time::advance(BEGINNING).await;
        model.now += i64::try_from(BEGINNING.as_millis()).unwrap();
        model.flaw = flaw;
        for (place, actor) in ACTORS.iter().enumerate() {
            let wire = match actor {
                _ if !speaks(place) => continue,
                Actor::App { .. } => continue,
                Actor::Owner(tenant) => still.activation(tenant).await,
                Actor::Peer { tenant, peer } => still.peer(tenant, peer).await,
                Actor::Nobody(tenant) => {
                    let mut wire = still.connect(tenant).await;
                    // Who says nothing at all has less time.
                    wire.succeeds("noop:0").await;
                    wire
                }
            };
            wires[place] = Some(wire);
        }
        Self { still, model, wires, silent: Duration::ZERO }
    }

    async fn play(&mut self, steps: &[Step]) -> Option<Difference> {
        let mut place = 0;
        while let Some(step) = steps.get(place) {
            match step {
                Step::Pass(millis) => self.pass(Duration::from_millis(*millis)).await,
                Step::Sweep => {
                    self.still.node.sweep().await.unwrap();
                    self.model.sweep();
                }
                Step::Say(actor, _) => {
                    // What one says in a row is written at once, and answered in order.
                    let said = steps[place..].iter().map_while(|step| match step {
                        Step::Say(other, op) if other == actor => Some(&**op),
                        _ => None,
                    });
                    let said: Vec<&Op> = said.collect();
                    if let Some((after, what)) = self.say(*actor, &said).await {
                        return Some(Difference { place: place + after, what });
                    }
                    place += said.len();
                    continue;
                }
            }
            place += 1;
        }
        None
    }

    async fn say(&mut self, actor: usize, said: &[&Op]) -> Option<(usize, String)> {
        let wire = self.wires[actor].as_mut().expect("who speaks is connected");
        let lines: String = said.iter().map(|op| op.line() + "\n").collect();
        wire.say(&lines).await;
        for (place, op) in said.iter().enumerate() {
            let expected = self.model.perform(&ACTORS[actor], op);
            let heard = wire.hear().await.unwrap_or_default();
            let answer = understood(&ACTORS[actor], op, &heard);
            let same = match (&answer, &expected) {
                (Ok(answer), Ok(expected)) => answer == expected,
                (Err(code), Err(expected)) => code == expected,
                _ => false,
            };
            if !same {
                return Some((place, format!("expected {expected:?}\n   heard {heard:?}")));
            }
        }
        None
    }

    async fn pass(&mut self, time: Duration) {
        tokio::time::advance(time).await;
        self.model.now += i64::try_from(time.as_millis()).unwrap();
        self.silent += time;
        if self.silent > PATIENCE {
            self.silent = Duration::ZERO;
            for wire in self.wires.iter_mut().flatten() {
                wire.ask("noop:0").await;
            }
        }
    }
}

/// An application with the right over `wavi`, as the owner lets it in, and what that leaves.
async fn enroll(still: &Still, model: &mut Model, tenant: &str, writes: bool) -> Wire {
    let (name, right) = if writes { ("writer", "rw") } else { ("reader", "r") };
    let key = keys().encryption;
    let mut first = still.first_key(tenant).await;
    let id = still.enroll(&mut first, &key, name, &format!(r#"{{"wavi":"{right}"}}"#)).await;
    still.approve(&mut first, &id).await;
    let published = format!("public:{name}.d.pkam.__pkams.__public_keys{tenant}");
    let value = json!({ "apkamPublicKey": key.public().to_base64() }).to_string();
    model.plant(tenant, &published, &value);
    let (wire, answer) = still.pkam(tenant, &key, Some(&id)).await;
    assert!(answer.starts_with("data:success"), "{answer}");
    wire
}

/// An answer as the model gives it; its prompt is checked on the way.
fn understood(who: &Actor, op: &Op, heard: &str) -> Result<Value, String> {
    let failed = heard.starts_with("error:");
    let prompt = match who {
        Actor::Nobody(_) => "@".to_owned(),
        Actor::Peer { .. } if failed => "@".to_owned(),
        _ => format!("{}@", who.speaks_as()),
    };
    let Some(text) = heard.strip_suffix(&format!("\n{prompt}")) else { return Err("no prompt".to_owned()) };
    if let Some(error) = text.strip_prefix("error:") {
        return Err(error.get(..6).unwrap_or(error).to_owned());
    }
    let Some(data) = text.strip_prefix("data:") else { return Err("no answer".to_owned()) };
    read(op, data)
}

/// What follows `data:`.
fn read(op: &Op, data: &str) -> Result<Value, String> {
    let may_be_null = matches!(op, Op::List { .. } | Op::Blocked);
    if !op.is_json() || data == "null" && !may_be_null {
        return Ok(json!(data));
    }
    let mut value: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
    match (op, &mut value) {
        (Op::Scan { .. }, Value::Array(keys)) => {
            // The records of enrollments have names that the server made.
            keys.retain(|key| !key.as_str().is_some_and(|key| key.contains(".__manage@")));
            keys.sort_by_key(Value::to_string);
        }
        (Op::Fetch { .. }, Value::Object(members)) => _ = members.remove("atMetadata"),
        (Op::List { .. }, Value::Array(notes)) => notes.iter_mut().for_each(plain),
        (Op::NotifyAll { .. }, Value::Object(ids)) => ids.values_mut().for_each(|id| *id = json!("?")),
        (Op::Blocked, Value::Array(names)) => names.sort_by_key(Value::to_string),
        (Op::Batch(ops), Value::Array(answers)) => {
            for (op, answer) in ops.iter().zip(answers) {
                let Value::Object(response) = &mut answer["response"] else {
                    return Err("no response".into());
                };
                response.remove("error_message");
                if let Some(Value::String(data)) = response.get("data") {
                    response["data"] = read(op, data)?;
                }
            }
        }
        _ => {}
    }
    Ok(value)
}

/// A notification without what the model does not keep, and without ids that the server made.
fn plain(note: &mut Value) {
    let Value::Object(members) = note else { return };
    members.remove("metadata");
    if !members["id"].as_str().is_some_and(|id| id.starts_with('n')) {
        members["id"] = json!("?");
    }
}
