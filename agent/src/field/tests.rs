//! Adapters that are programs, over a real outbox.

use std::net::TcpListener;
use std::path::Path;

use super::*;
use crate::intake::tests::{Noon, rules};
use crate::outbox::{Durability, Opened, OutboxOptions, StreamPolicy};
use crate::tally::{Counts, State};

fn field(folder: &Path) -> Field<Noon> {
    let stream = || "process".parse().unwrap();
    let policy = StreamPolicy { readers: ["@ops".parse().unwrap()].into(), ..StreamPolicy::default() };
    let options = OutboxOptions::new(folder, BTreeMap::from([(stream(), policy)]));
    let options = OutboxOptions { durability: Durability::None, ..options };
    let Opened { outbox, .. } = Outbox::open(options, Noon.now()).unwrap();
    Field::new(outbox, Arc::new(Noon), rules(), CancellationToken::new())
}

/// Says its process id once, and then nothing.
fn program(device: &str, says: &str) -> AdapterConfig {
    toml::from_str(&format!(
        "type = \"process\"\ncommand = [\"/bin/sh\", \"-c\", '{says}; exec sleep 1000']\ndevice = \"{device}\"\nstream = \"process\"\n"
    ))
    .unwrap()
}

const SPEAKS: &str = r#"echo "{\"pid\":$$}""#;

/// Waits until so many readings of `name` were kept.
async fn kept(field: &mut Field<Noon>, name: &str, count: u64) {
    let tally = field.tallies.of(name);
    while tally.counts().kept < count {
        tokio::time::timeout(Duration::from_millis(5), field.tend()).await.ok();
    }
}

fn count(field: &Field<Noon>, name: &str) -> Counts {
    field.tallies.of(name).counts()
}

#[tokio::test]
async fn one_is_stopped_and_started_while_the_other_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut field = field(folder.path());
    for name in ["pump", "oven"] {
        field.start(name, program(name, SPEAKS)).unwrap();
        kept(&mut field, name, 1).await;
    }
    let before = field.orders();
    field.stop(&["oven".to_owned()]).await.unwrap();
    assert!(before["oven"].is_closed() && !before["pump"].is_closed());
    assert_eq!(field.orders().len(), 1);
    field.start("oven", program("oven", SPEAKS)).unwrap();
    kept(&mut field, "oven", 2).await;
    assert_eq!(count(&field, "pump").kept, 1, "the other was not started again");
    field.stop.cancel();
    field.end().await.unwrap();
    assert!(before["pump"].is_closed());
}

#[tokio::test(start_paused = true)]
async fn one_that_gives_up_is_started_again_and_nobody_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut field = field(folder.path());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let route = "topic = \"a/{dev}\"\ndevice = \"{dev}\"\nstream = \"process\"\ndecode = { as = \"text\" }";
    let listener =
        toml::from_str(&format!("type = \"mqtt\"\nlisten = \"{address}\"\n[route.a]\n{route}")).unwrap();
    field.start("shop", listener).unwrap();
    field.start("pump", program("pump", "true")).unwrap();
    let began = Instant::now();
    let before = field.orders();
    field.tend().await.unwrap();
    assert!(began.elapsed() >= AGAIN);
    assert!(before["shop"].is_closed() && !field.orders()["shop"].is_closed());
    assert!(field.orders()["pump"].same_channel(&before["pump"]));
    // One that waits to be started again can be stopped.
    tokio::time::timeout(Duration::from_secs(1), field.tend()).await.unwrap_err();
    let status = field.tallies.of("shop").look(0);
    assert_eq!(status.state, State::Failed);
    assert!(status.why.unwrap().contains(&address.to_string()));
    field.stop(&["shop".to_owned()]).await.unwrap();
    assert_eq!(field.orders().len(), 1);
}
