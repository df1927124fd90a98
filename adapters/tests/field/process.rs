//! Programs that speak for devices.

use std::path::Path;

use atedge_adapters::serial::FrameError;
use atedge_adapters::{CommandError, Order, Refusal, Value};
use tempfile::TempDir;

use super::gateway::{Gateway, value, within};

/// A script, and the adapter that runs it.
fn gateway(script: &str, more: &str) -> (TempDir, Gateway) {
    gateway_of("device = \"gate\"", script, more)
}

/// The same, for the device or the devices that this setting says.
fn gateway_of(device: &str, script: &str, more: &str) -> (TempDir, Gateway) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    std::fs::write(&path, script).unwrap();
    let table = format!(
        r#"
        type = "process"
        command = ["/bin/sh", "{}", "{}"]
        {device}
        stream = "tags"
        {more}
        "#,
        path.display(),
        folder.path().display()
    );
    (folder, Gateway::start(&table))
}

async fn appears(path: &Path) {
    let there = async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    };
    within("a file that the program makes", there).await;
}

#[tokio::test]
async fn each_line_is_a_reading_and_each_order_a_line() {
    let script = r#"echo '{"n":1,"id":"a","at":1795350000250}'
        while read -r line; do echo "{\"heard\":\"$line\",\"id\":\"b\"}"; done"#;
    let more = "id = { from = \"/id\" }\ntime = { from = \"/at\", as = \"unix_ms\" }";
    let (_folder, mut gateway) = gateway(script, more);
    let (reading, ack) = gateway.reading().await;
    assert_eq!((reading.device.as_str(), reading.stream.as_str()), ("gate", "tags"));
    assert_eq!((value(&reading), reading.device_id.as_deref()), (&Value::Integer(1), Some("a")));
    assert!(reading.time.is_some() && reading.delivery.is_none());
    ack.accept();
    gateway.order(Order::Send { bytes: b"open 7".into() }).await.unwrap();
    assert_eq!(value(&gateway.reading().await.0), &Value::Text("open 7".into()));
    let two = gateway.order(Order::Send { bytes: b"a\nb".into() }).await;
    assert!(matches!(two, Err(CommandError::Refused { .. })), "{two:?}");
    let published = gateway.publish("a", "b").await;
    assert_eq!(published, Err(CommandError::Unsupported { adapter: "process", order: "publish" }));
    gateway.stop().await;
}

#[tokio::test]
async fn what_is_no_reading_is_refused_and_what_follows_is_read() {
    let script = r#"echo 'warming up'; head -c 5000 /dev/zero | tr '\0' x; echo; echo '[1]'; printf '\377\n'
        echo '{"n":2}'; exec cat >/dev/null"#;
    let (_folder, mut gateway) = gateway(script, "max = 1000");
    assert_eq!(gateway.refusal().await.kind(), "decode");
    assert_eq!(gateway.refusal().await, Refusal::Frame(FrameError::TooLong { max: 1000 }));
    assert_eq!(gateway.refusal().await.kind(), "decode");
    assert_eq!(gateway.refusal().await.kind(), "decode");
    assert_eq!(value(&gateway.reading().await.0), &Value::Integer(2));
    gateway.stop().await;
}

#[tokio::test]
async fn a_program_may_speak_for_many_devices() {
    let script = r#"for n in 1 2 3; do echo "{\"dev\":\"tag-$n\",\"n\":$n}"; done
        echo '{"n":4}'; echo '{"dev":"No Name","n":5}'; echo '{"dev":"tag-1","n":6}'; exec cat >/dev/null"#;
    let (_folder, mut gateway) = gateway_of("device = { from = \"/dev\" }", script, "");
    for n in 1..=3 {
        let (reading, _) = gateway.reading().await;
        assert_eq!((reading.device.to_string(), value(&reading)), (format!("tag-{n}"), &Value::Integer(n)));
    }
    for kind in ["decode", "name"] {
        assert_eq!(gateway.refusal().await.kind(), kind);
    }
    assert_eq!(gateway.reading().await.0.device.as_str(), "tag-1");
    gateway.stop().await;
}

#[tokio::test]
async fn one_that_ends_is_started_again() {
    let (folder, mut gateway) = gateway("echo x >>$1/lives; wc -l <$1/lives | sed 's/.*/{\"life\":&}/'", "");
    for life in 1..4 {
        assert_eq!(value(&gateway.reading().await.0), &Value::Integer(life));
    }
    // In between there is none.
    let refused = loop {
        match gateway.order(Order::Send { bytes: b"x".into() }).await {
            Err(refused @ CommandError::NotConnected { .. }) => break refused,
            Ok(()) | Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(refused, CommandError::NotConnected { peer: "/bin/sh".into() });
    drop(folder);
    gateway.stop().await;
}

#[tokio::test]
async fn its_environment_has_nothing_of_the_agents() {
    // Cargo sets this one for tests.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let script = r#"echo "{\"level\":\"$LEVEL\",\"none\":\"$CARGO_MANIFEST_DIR\"}"; exec cat >/dev/null"#;
    let (_folder, mut gateway) = gateway(script, "env = { LEVEL = \"2\" }");
    let (reading, _) = gateway.reading().await;
    let values: Vec<_> = reading.points.iter().map(|point| &point.value).collect();
    assert_eq!(values, [&Value::Text("2".into()), &Value::Text(String::new())]);
    gateway.stop().await;
}

#[tokio::test]
async fn it_says_its_last_words_and_one_that_does_not_end_is_killed_with_all_that_it_started() {
    let (folder, mut polite) = gateway("echo '{\"n\":1}'; cat >/dev/null; touch $1/ended", "");
    polite.reading().await;
    polite.stop().await;
    assert!(folder.path().join("ended").exists(), "it was waited for");

    let (folder, mut loud) =
        gateway("echo '{\"n\":1}'; cat >/dev/null; head -c 300000 /dev/zero >&2; touch $1/ended", "");
    loud.reading().await;
    loud.stop().await;
    assert!(folder.path().join("ended").exists(), "what it complains of at the end is read, too");

    let stubborn = r#"trap '' TERM; (while :; do sleep 1; done) & echo $! >$1/child; touch $1/ready
        while :; do sleep 1; done"#;
    let (folder, gateway) = gateway(stubborn, "");
    appears(&folder.path().join("ready")).await;
    gateway.stop().await;
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    let gone = async {
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        // Its new parent may not have taken notice yet.
        while state().is_ok_and(|state| !state.contains(") Z ")) {
            tokio::task::yield_now().await;
        }
    };
    within("the end of what it started", gone).await;
}
