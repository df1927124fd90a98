//! Holes that other atServers once had: each has a test with its name, so that none comes back. That a
//! server's certificate is for exactly its host is shown beside the check itself.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::*;

/// Beyond this a connection was not cut.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every way to a record that there is, for one that nobody may see.
async fn is_hidden(talk: &mut Talk, key: &str) {
    let name = key.strip_suffix("@alice").unwrap_or(key);
    for line in [
        format!("llookup:{key}"),
        format!("llookup:all:{key}"),
        format!("lookup:{name}@alice"),
        format!("plookup:{name}@alice"),
        format!("keys:get:keyName:{key}"),
    ] {
        let answer = talk.ask(&line).await;
        assert!(answer.starts_with("error:"), "{line}: {answer}");
    }
    let listed = talk.data("scan:showhidden:true").await;
    assert!(!listed.as_array().unwrap().iter().any(|listed| listed == key), "{key} is listed");
}

#[tokio::test]
async fn keys_verb_without_authorisation() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let one = owner.enroll("one", json!({"wavi": "rw", "*": "rw"}), 1).await;
    let two = owner.enroll("two", json!({"wavi": "rw", "*": "rw"}), 2).await;
    let (mut one, mut two, id) = (Talk::app(&node, &one, 1).await, Talk::app(&node, &two, 2).await, one);
    one.data("keys:put:self:namespace:__global:appName:one:deviceName:d:keyName:k v").await;
    one.data("keys:put:private:namespace:wavi:appName:one:deviceName:d:keyName:k v").await;
    for key in [
        "one.d.k.__self_keys.__global@alice".to_owned(),
        "private:one.d.k.__private_keys.wavi@alice".to_owned(),
        format!("{id}.default_enc_private_key.__manage@alice"),
        format!("{id}.default_self_enc_key.__manage@alice"),
    ] {
        assert!(one.ask(&format!("keys:get:keyName:{key}")).await.starts_with("data:{"), "{key}");
        two.refused(&format!("keys:get:keyName:{key}"), "AT0009").await;
        two.refused(&format!("keys:delete:keyName:{key}"), "AT0009").await;
    }
    // Nor is the name of another application to be had, or what another has put to be overwritten.
    two.refused("keys:put:self:namespace:__global:appName:one:deviceName:d:keyName:k w", "AT0009").await;
    one.data("keys:put:public:namespace:__global:keyName:p v").await;
    two.refused("keys:put:public:namespace:__global:keyName:p w", "AT0009").await;
    two.refused("keys:put:self:namespace:__manage:appName:two:deviceName:d:keyName:k w", "AT0009").await;
    assert_eq!(two.data("keys:get:public").await, json!([]));
    assert!(!one.ask("sync:from:-1:limit:100").await.contains("_keys."), "copies do not follow");
}

#[tokio::test]
async fn activation_secret_readable() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let id = owner.enroll("all", json!({"*": "rw", "__manage": "rw"}), 1).await;
    let mut app = Talk::app(&node, &id, 1).await;
    for talk in [&mut owner, &mut app] {
        for key in ["privatekey:at_secret", "@alice:signing_privatekey@alice"] {
            is_hidden(talk, key).await;
        }
        talk.refused("update:privatekey:at_secret guessed", "AT0009").await;
        talk.refused("update:privatekey:at_secret_deleted true", "AT0009").await;
    }
    // Nor by reference.
    owner.data("update:public:door@alice atsign://signing_privatekey@alice").await;
    assert_eq!(Talk::connect(&node).await.ask("lookup:door@alice").await, "data:null");
}

#[tokio::test]
async fn empty_secret_resurrected() {
    let node = node().await;
    let mut owner = Talk::activation(&node).await;
    assert_eq!(owner.ask("delete:privatekey:at_secret").await, "data:-1");
    // As a restart would that plants what it was given.
    for secret in [SECRET, ""] {
        assert!(!node.add_tenant(Tenant { atsign: alice(), listen: None }, secret).await.unwrap());
        let mut talk = Talk::connect(&node).await;
        let challenge = talk.challenge().await;
        talk.refused(&format!("cram:{}", cram_digest(secret, &challenge)), "AT0015").await;
    }
    // And one that was empty from the start opens nothing.
    let node = Arc::new(Node::in_memory(ServerConfig::default()).await.unwrap());
    assert!(node.add_tenant(Tenant { atsign: alice(), listen: None }, "").await.unwrap());
    let mut talk = Talk::connect(&node).await;
    let challenge = talk.challenge().await;
    talk.refused(&format!("cram:{}", cram_digest("", &challenge)), "AT0015").await;
}

#[tokio::test]
async fn keys_without_namespace() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    owner.data("update:bare@alice 1").await;
    let id = owner.enroll("app", json!({"wavi": "rw"}), 1).await;
    let mut app = Talk::app(&node, &id, 1).await;
    for line in [
        "llookup:bare@alice",
        "update:bare@alice 2",
        "update:@bob:bare@alice 2",
        "delete:bare@alice",
        "lookup:bare@alice",
        "notify:@alice:bare@alice:v",
        "notify:messageType:text:@bob:bare.wavi",
        "update:wavi@alice 2",
    ] {
        app.refused(line, "AT0009").await;
    }
    assert_eq!(app.data("scan bare").await, json!([]));
}

#[tokio::test]
async fn block_list_changed_by_an_application() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let id = owner.enroll("app", json!({"wavi": "rw", "__manage": "rw"}), 1).await;
    let mut app = Talk::app(&node, &id, 1).await;
    app.refused("config:block:add:@bob", "AT0009").await;
    app.refused("config:block:remove:@bob", "AT0009").await;
}

#[tokio::test]
async fn challenge_good_for_several_attempts() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let challenge = owner.challenge().await;
    let signature = KEYS[0].sign(challenge.as_bytes(), Hash::Sha256);
    owner.refused("pkam:d3Jvbmc=", "AT0401").await;
    owner.refused(&format!("pkam:{signature}"), "AT0015").await;
    // Neither is one that was answered good for another connection, nor twice for its own.
    let challenge = owner.challenge().await;
    let signature = KEYS[0].sign(challenge.as_bytes(), Hash::Sha256);
    let mut other = Talk::connect(&node).await;
    other.challenge().await;
    other.refused(&format!("pkam:{signature}"), "AT0401").await;
    assert_eq!(owner.ask(&format!("pkam:{signature}")).await, "data:success");
    owner.refused(&format!("pkam:{signature}"), "AT0015").await;
}

#[tokio::test]
async fn challenge_kept_after_use() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let challenge = owner.challenge().await;
    let (session, proof) = challenge.split_once("@alice:").unwrap();
    is_hidden(&mut owner, &format!("private:{session}@alice")).await;
    is_hidden(&mut owner, &format!("public:{session}@alice")).await;
    assert!(!owner.ask("sync:from:-1:limit:100").await.contains(proof));
}

#[tokio::test]
async fn revocation_leaves_connections_open() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let manages = json!({"wavi": "rw", "__manage": "rw"});
    let parent = owner.enroll("parent", manages.clone(), 1).await;
    let mut by_parent = Talk::app(&node, &parent, 1).await;
    let child = by_parent.enroll("child", manages, 2).await;
    let mut by_child = Talk::app(&node, &child, 2).await;
    let grandchild = by_child.enroll("grandchild", json!({"wavi": "r"}), 2).await;
    let other = owner.enroll("other", json!({"wavi": "rw"}), 1).await;
    let mut by_other = Talk::app(&node, &other, 1).await;
    let mut watching = Talk::app(&node, &grandchild, 2).await;
    watching.say("monitor .*").await;
    // One that is waiting for an answer, and one that does nothing.
    by_child.say("noop:5000").await;
    let idle = Talk::app(&node, &parent, 1).await;

    owner.decide("revoke", &parent).await;
    for ended in [by_parent, by_child, watching, idle] {
        let said = timeout(PATIENCE, ended.end()).await.expect("cut");
        assert!(said.is_empty() || said.starts_with("notification: "), "{said}");
    }
    for (id, key) in [(&parent, 1), (&child, 2), (&grandchild, 2)] {
        assert_eq!(owner.state(id).await, "revoked");
        let answer = Talk::connect(&node).await.pkam(&format!("enrollmentId:{id}:"), key).await;
        assert_eq!(answer, format!("error:AT0027:enrollment_id: {id} is revoked"));
    }
    assert_eq!(by_other.ask("noop:0").await, "data:ok", "nobody else is cut");
}

#[tokio::test]
async fn revoked_key_comes_back_as_the_first() {
    let node = node().await;
    let mut first = Talk::activation(&node).await;
    let id = first.request("first", json!({}), 1).await;
    let mut manager = {
        let manages = json!({"*": "rw", "__manage": "rw"});
        let manager = first.enroll("manager", manages, 2).await;
        Talk::app(&node, &manager, 2).await
    };
    let mut legacy = Talk::connect(&node).await;
    assert_eq!(legacy.pkam("", 1).await, "data:success");
    // It is the same key, whatever the connection calls itself.
    legacy.refused(&format!("enroll:revoke:{{\"enrollmentId\":\"{id}\"}}"), "AT0031").await;
    manager.decide("revoke", &id).await;
    assert_eq!(timeout(PATIENCE, legacy.end()).await, Ok(String::new()));
    assert!(Talk::connect(&node).await.pkam("", 1).await.starts_with("error:AT0015"));
    assert_eq!(manager.ask("noop:0").await, "data:ok", "who revokes is not its own victim");
    manager.decide("unrevoke", &id).await;
    assert_eq!(Talk::connect(&node).await.pkam("", 1).await, "data:success");
}

#[tokio::test]
async fn enrollment_id_in_another_spelling() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    let id = owner.enroll("app", json!({"wavi": "rw"}), 1).await;
    for other in [id.to_uppercase(), format!("{id}."), format!(".{id}"), format!(" {id}"), format!("{id} ")] {
        let answer = Talk::connect(&node).await.pkam(&format!("enrollmentId:{other}:"), 1).await;
        assert!(answer.starts_with("error:AT0028:enrollment_id: "), "{other:?}: {answer}");
        owner.refused(&format!("enroll:revoke:{{\"enrollmentId\":\"{other}\"}}"), "AT0028").await;
    }
}

#[tokio::test]
async fn caller_chooses_the_algorithm() {
    let node = node().await;
    Talk::owner(&node).await;
    let mut talk = Talk::connect(&node).await;
    let answer = talk.pkam("signingAlgo:ecc_secp256r1:", 0).await;
    assert!(answer.starts_with("error:AT0401-"), "{answer}");
    assert_eq!(talk.pkam("signingAlgo:rsa2048:", 0).await, "data:success");
}

#[tokio::test]
async fn scan_bypasses_namespaces() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    for key in ["a.wavi@alice", "a.buzz@alice", "@bob:b.buzz@alice", "public:c.buzz@alice"] {
        owner.data(&format!("update:{key} 1")).await;
    }
    let id = owner.enroll("app", json!({"wavi": "r"}), 1).await;
    let mut app = Talk::app(&node, &id, 1).await;
    let seen = json!(["a.wavi@alice", "public:c.buzz@alice"]);
    assert_eq!(app.data("scan ^(public:)?[^:]*\\.(wavi|buzz)@").await, seen);
    assert_eq!(app.data("scan:showhidden:true buzz").await, json!(["public:c.buzz@alice"]));
    let synced = app.ask("sync:from:-1:limit:100:buzz").await;
    assert!(!synced.contains("a.buzz") && !synced.contains("b.buzz"), "{synced}");
}

#[tokio::test]
async fn dotted_namespaces() {
    let node = node().await;
    let mut owner = Talk::owner(&node).await;
    owner.data("update:x.a.b@alice 1").await;
    owner.data("update:x.b@alice 1").await;
    let id = owner.enroll("app", json!({"a.b": "rw"}), 1).await;
    let mut app = Talk::app(&node, &id, 1).await;
    assert_eq!(app.ask("llookup:x.a.b@alice").await, "data:1");
    app.data("update:y.x.a.b@alice 1").await;
    for key in ["x.b@alice", "a.b@alice", "xa.b@alice", "x.a.b.c@alice"] {
        app.refused(&format!("llookup:{key}"), "AT0009").await;
    }
}
