//! From a request to its end.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, advance};

use super::*;

#[tokio::test]
async fn an_application_takes_another_key_under_the_same_enrollment() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let id = owner.enroll("app", json!({"wavi": "rw"}), 1).await;
    let (mut app, other) = (Talk::app(&node, &id, 1).await, Talk::app(&node, &id, 1).await);
    let key = public(2);
    let text = format!("{id}|{key}|rsa2048");
    let signed = |signer: usize| {
        let signature = KEYS[signer].sign(text.as_bytes(), Hash::Sha256);
        json!({"apkamPublicKey": key, "signingAlgo": "rsa2048", "apkamPublicKeySignature": signature})
    };
    app.refused(&format!("enroll:update:{}", signed(1)), "AT0011").await;
    app.data(&format!("enroll:update:{}", signed(2))).await;
    assert_eq!(other.end().await, "", "it was authenticated by the key that is gone");
    assert_eq!(app.ask("noop:0").await, "data:ok");
    let old = Talk::connect(&node).await.pkam(&format!("enrollmentId:{id}:"), 1).await;
    assert!(old.starts_with("error:AT0401-"), "{old}");
    let mut again = Talk::app(&node, &id, 2).await;
    again.data("update:a.wavi@alice 1").await;
}

#[tokio::test]
async fn what_an_enrollment_takes_is_bounded() {
    let config: ServerConfig = toml::from_str("[enrollment]\nmost = 2").unwrap();
    let node = Arc::new(Node::in_memory(config).await.unwrap());
    assert!(node.add_tenant(Tenant { atsign: alice(), listen: None }, SECRET).await.unwrap());
    let mut owner = Talk::owner(&node).await;
    let id = owner.enroll("app", json!({"wavi": "rw"}), 1).await;
    let mut app = Talk::app(&node, &id, 1).await;
    let half = json!({"metadata": {"a": "x".repeat(20_000)}});
    app.data(&format!("enroll:update:{half}")).await;
    let more = json!({"metadata": {"b": "x".repeat(20_000)}});
    app.refused(&format!("enroll:update:{more}"), "AT0011").await;
    owner.request("second", json!({"wavi": "rw"}), 1).await;
    let third = json!({"appName": "third", "deviceName": "d", "apkamPublicKey": "k"});
    let refused = owner.refused(&format!("enroll:request:{third}"), "AT0011").await;
    assert!(refused.contains("there are 2 enrollments already"), "{refused}");
}

#[tokio::test]
async fn managers_are_told_of_requests_and_nobody_else() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let manager = owner.enroll("manager", json!({"__manage": "r"}), 1).await;
    let all = owner.enroll("all", json!({"*": "rw"}), 2).await;
    let (mut manager, mut all) = (Talk::app(&node, &manager, 1).await, Talk::app(&node, &all, 2).await);
    for watcher in [&mut manager, &mut all] {
        watcher.say("monitor:strict:selfNotifications enrollments|last").await;
    }
    // Their monitors are up when they answer.
    for watcher in [&mut manager, &mut all] {
        watcher.say("noop:0").await;
        assert_eq!(watcher.hear().await, "data:ok\n");
    }
    let id = owner.request("new", json!({"wavi": "rw"}), 1).await;
    let told = manager.hear().await;
    assert!(told.contains(&format!("\"key\":\"{id}.new.enrollments.__manage@alice\"")), "{told}");
    owner.ask("notify:id:last:@alice:last@alice:v").await;
    let told = all.hear().await;
    assert!(told.starts_with("notification: {\"id\":\"last\""), "{told}");
}

#[tokio::test]
async fn who_revokes_keeps_itself_and_what_it_answers_for() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let manages = json!({"wavi": "rw", "__manage": "rw"});
    let parent = owner.enroll("parent", manages.clone(), 1).await;
    let mut by_parent = Talk::app(&node, &parent, 1).await;
    let child = by_parent.enroll("child", manages, 2).await;
    let sibling = by_parent.enroll("sibling", json!({"wavi": "rw"}), 2).await;
    let mut by_child = Talk::app(&node, &child, 2).await;
    let grandchild = by_child.enroll("grandchild", json!({"wavi": "r"}), 2).await;
    by_child.decide("revoke", &parent).await;
    for (id, state) in
        [(&parent, "revoked"), (&sibling, "revoked"), (&child, "approved"), (&grandchild, "approved")]
    {
        assert_eq!(owner.state(id).await, state);
    }
    assert_eq!(by_child.ask("noop:0").await, "data:ok");
    // Who gives it again answers for it: what its first approver loses does not touch it any more.
    owner.decide("unrevoke", &sibling).await;
    owner.decide("unrevoke", &parent).await;
    let keep = json!({"enrollmentId": parent, "keepApproved": true});
    owner.data(&format!("enroll:revoke:{keep}")).await;
    assert_eq!(
        (owner.state(&child).await.as_str(), owner.state(&sibling).await.as_str()),
        ("approved", "approved")
    );
    owner.decide("unrevoke", &parent).await;
    owner.decide("revoke", &parent).await;
    assert_eq!(
        (owner.state(&child).await.as_str(), owner.state(&sibling).await.as_str()),
        ("revoked", "approved")
    );
}

#[tokio::test]
async fn a_monitor_sees_what_its_connection_may_see_now() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let id = owner.enroll("app", json!({"wavi": "r"}), 1).await;
    let mut watcher = Talk::owner(&node).await;
    watcher.say("monitor:strict .").await;
    // The same connection, with fewer rights from now on.
    watcher.say("from:@alice").await;
    let challenge = watcher.hear().await;
    let challenge = challenge.strip_prefix("data:").unwrap().trim_end();
    let signature = KEYS[1].sign(challenge.as_bytes(), Hash::Sha256);
    watcher.say(&format!("pkam:enrollmentId:{id}:{signature}")).await;
    assert_eq!(watcher.hear().await, "data:success\n");
    owner.ask("notify:id:n1:@alice:x.buzz@alice:v").await;
    owner.ask("notify:id:n2:@alice:x.wavi@alice:v").await;
    let told = watcher.hear().await;
    assert!(told.starts_with("notification: {\"id\":\"n2\""), "{told}");
}

// From here on one connection each: while nobody but the store has anything to do, paused time would run
// to the next moment for which another connection waits.

#[tokio::test(start_paused = true)]
async fn who_revokes_itself_is_let_go_after_ten_seconds() {
    let node = node().await;
    let mut first = Talk::activation(&node).await;
    let id = first.request("first", json!({}), 1).await;
    let target = format!("{{\"enrollmentId\":\"{id}\"}}");
    first.refused(&format!("enroll:revoke:{target}"), "AT0031-").await;
    let began = Instant::now();
    let answer = first.data(&format!("enroll:revoke:force:{target}")).await;
    assert_eq!(answer["message"], "Enrollment is revoked. Closing the connection in 10 seconds");
    // It is not heard any more.
    first.say("scan").await;
    assert_eq!(first.end().await, "");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_passcode_waits_and_holds_nobody_up() {
    let node = node().await;
    let mut nobody = Talk::connect(&node).await;
    let mut asked = json!({
        "appName": "a",
        "deviceName": "d",
        "otp": "WRONG1",
        "apkamPublicKey": public(1),
        "encryptedAPKAMSymmetricKey": "s",
        "namespaces": {"wavi": "rw"},
    });
    for seconds in [1, 2, 3] {
        let began = Instant::now();
        let line = format!("enroll:request:{asked}");
        assert_eq!(
            nobody.ask(&line).await,
            "error:AT0011-Exception: invalid otp. Cannot process enroll request"
        );
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
    // Without any at all it is the same.
    asked.as_object_mut().unwrap().remove("otp");
    let began = Instant::now();
    nobody.refused(&format!("enroll:request:{asked}"), "AT0011-Exception: invalid otp").await;
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_two_days_and_a_passcode_five_minutes() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let id = owner.request("app", json!({"wavi": "rw"}), 1).await;
    advance(Duration::from_hours(48) - Duration::from_secs(1)).await;
    assert_eq!(owner.state(&id).await, "pending");
    advance(Duration::from_secs(1)).await;
    assert_eq!(owner.state(&id).await, "expired");
    let approved = json!({
        "enrollmentId": id,
        "encryptedDefaultEncryptionPrivateKey": "a",
        "encryptedDefaultSelfEncryptionKey": "b",
    });
    let gone = owner.refused(&format!("enroll:approve:{approved}"), "AT0028:").await;
    assert_eq!(gone, format!("error:AT0028:enrollment_id: {id} is expired or invalid"));
    assert_eq!(owner.data("enroll:list:{\"enrollmentStatusFilter\":[\"pending\"]}").await, json!({}));
    // It does not stand in the way of another.
    let again = owner.request("app", json!({"wavi": "rw"}), 1).await;
    owner.decide("approve", &again).await;
    advance(Duration::from_hours(96)).await;
    assert_eq!(owner.state(&again).await, "approved", "what is approved has no two days");

    let code = owner.ask("otp:get").await.strip_prefix("data:").unwrap().to_owned();
    advance(Duration::from_mins(5)).await;
    owner.refused("pkam:d3Jvbmc=", "AT0015").await;
    let asked = json!({
        "appName": "late",
        "deviceName": "d",
        "otp": code,
        "apkamPublicKey": public(1),
        "encryptedAPKAMSymmetricKey": "s",
        "namespaces": {"wavi": "rw"},
    });
    owner.refused(&format!("enroll:request:{asked}"), "AT0011-Exception: invalid otp").await;
}

#[tokio::test(start_paused = true)]
async fn an_application_is_good_until_its_keys_expire_and_is_told_so() {
    let node = node().await;
    let mut first = Talk::activation(&node).await;
    let asked = json!({
        "appName": "a",
        "deviceName": "d",
        "apkamPublicKey": public(1),
        "apkamKeysExpiryInMillis": 60_000,
    });
    let id =
        first.data(&format!("enroll:request:{asked}")).await["enrollmentId"].as_str().unwrap().to_owned();
    advance(Duration::from_secs(59)).await;
    assert_eq!(first.ask("noop:0").await, "data:ok");
    advance(Duration::from_secs(1)).await;
    let answer = first.ask("noop:0").await;
    assert_eq!(answer, format!("error:AT0028:The enrollment id: {id} is expired. Closing the connection"));
    assert_eq!(first.end().await, "");
    let late = Talk::connect(&node).await.pkam(&format!("enrollmentId:{id}:"), 1).await;
    assert_eq!(late, format!("error:AT0028:enrollment_id: {id} is expired or invalid"));
}

#[tokio::test(start_paused = true)]
async fn a_monitor_ends_with_its_enrollment() {
    let node = node().await;
    let mut first = Talk::activation(&node).await;
    let asked = json!({
        "appName": "a",
        "deviceName": "d",
        "apkamPublicKey": public(1),
        "apkamKeysExpiryInMillis": 60_000,
    });
    first.data(&format!("enroll:request:{asked}")).await;
    first.say("monitor").await;
    let began = Instant::now();
    assert_eq!(first.end().await, "");
    assert_eq!(began.elapsed().as_secs(), 60);
}
