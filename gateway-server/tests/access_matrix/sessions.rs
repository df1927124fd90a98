//! The same rules, as connections meet them: logins by every kind of caller, and a sample of the lines.

use at_protocol::Verb;

use crate::deeds;
use crate::oracle::{R, RW, Right, Want, Who, allows, is_protected};
use crate::wire::{Still, Wire, keys};

/// Of so many lines, one is said: a prime, so that every form and every kind of key has its turn.
const ONE_IN: usize = 7;
/// As many enrollments as one connection asks for here.
const PATIENT: &str = "[enrollment]\nrequests = 100\n";

async fn still() -> Still {
    Still::with(&["@alice", "@bob"], toml::from_str(PATIENT).unwrap()).await
}

async fn decide(owner: &mut Wire, operation: &str, id: &str) {
    owner.succeeds(&format!(r#"enroll:{operation}:{{"enrollmentId":"{id}"}}"#)).await;
}

/// The answer's error code; empty where there is none.
fn code(answer: &str) -> &str {
    answer.strip_prefix("error:").and_then(|error| error.get(..6)).unwrap_or_default()
}

/// The codes by which a decision about access is told.
fn is_refusal(code: &str) -> bool {
    matches!(code, "AT0009" | "AT0401")
}

/// With which code a line is refused to a caller whom the rules do not allow it.
fn refusal(who: Who, want: Want<'_>) -> &'static str {
    let by_owner = matches!(who, Who::Owner | Who::App(_) | Who::Stopped);
    match want {
        // It is known who asks, and not what for.
        Want::Notify { .. } | Want::NotifyText { .. } | Want::Stream { .. } if matches!(who, Who::Peer) => {
            "AT0009"
        }
        Want::Lookup(_) => "AT0009",
        _ if by_owner => "AT0009",
        _ => "AT0401",
    }
}

/// Verbs that change who speaks or how, wait for others, or are checked elsewhere.
fn is_said(line: &str) -> bool {
    let word = line.split(':').next().unwrap_or(line);
    let left_out = [
        "from", "to", "cram", "pkam", "pol", "enroll", "otp", "keys", "monitor", "stream", "config", "batch",
    ];
    // What these may see hangs on what an id stands for.
    let by_id = ["notify:status", "notify:fetch", "notify:remove"].iter().any(|verb| line.starts_with(verb));
    !left_out.contains(&word) && !by_id
}

#[tokio::test]
async fn connections_meet_the_same_rules() {
    // Another key than the first: who revokes that ends all that it has opened.
    let (still, key) = (still().await, keys().encryption);
    let mut owner = still.first_key("@alice").await;
    let mut cast: Vec<(&str, Who, Wire)> = vec![
        ("nobody", Who::Nobody, still.connect("@alice").await),
        ("another atSign", Who::Peer, still.peer("@alice", "@bob").await),
        ("activation secret", Who::Owner, still.activation("@alice").await),
    ];
    const APPS: &[(&str, &[(&str, Right)])] = &[
        ("all", &[("*", RW), ("__manage", RW)]),
        ("wavi", &[("wavi", RW)]),
        ("wavi to read", &[("wavi", R)]),
        ("dotted", &[("sub.wavi", RW)]),
        ("null", &[("null", RW)]),
        ("manager", &[("__manage", RW)]),
    ];
    for (name, grants) in APPS {
        let letters = |right| if right == R { "r" } else { "rw" };
        let namespaces: Vec<_> =
            grants.iter().map(|(space, right)| format!("\"{space}\":\"{}\"", letters(*right))).collect();
        let id = still.enroll(&mut owner, &key, name, &format!("{{{}}}", namespaces.join(","))).await;
        still.approve(&mut owner, &id).await;
        let (wire, answer) = still.pkam("@alice", &key, Some(&id)).await;
        assert_eq!(answer, "data:success\n@alice@", "{name}");
        cast.push((name, Who::App(grants), wire));
    }
    cast.push(("first key", Who::Owner, owner));

    let mut lines = Vec::new();
    deeds::each(|line, want| {
        // What belongs to an enrollment by its id is decided for another id here.
        if is_said(line) && !line.contains("e1.a.__e") {
            let allowed: Vec<_> = cast.iter().map(|(_, who, _)| allows(*who, want)).collect();
            let codes: Vec<_> = cast.iter().map(|(_, who, _)| refusal(*who, want)).collect();
            lines.push((line.to_owned(), allowed, codes));
        }
    });
    let (mut cells, mut differences) = (0, Vec::new());
    for (place, (name, _, wire)) in cast.iter_mut().enumerate() {
        for (line, allowed, codes) in lines.iter().skip(place % ONE_IN).step_by(ONE_IN) {
            let answer = wire.ask(line).await;
            let found = code(&answer);
            let right = match line.parse::<Verb>() {
                Err(_) => found == "AT0003",
                Ok(_) if allowed[place] => !is_refusal(found) && !answer.is_empty(),
                Ok(_) => found == codes[place],
            };
            cells += 1;
            if !right {
                differences.push(format!("{line} as {name}: {answer:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} of {cells}:\n{}", differences.len(), differences.join("\n"));
    println!("{cells} cells over connections");
    assert!(cells > 500, "{cells} cells");

    // What nobody deletes, the owner does not either.
    for key in deeds::KEYS.iter().filter(|key| is_protected(key)) {
        for (name, who, wire) in &mut cast {
            let answer = wire.ask(&format!("delete:{key}")).await;
            assert_eq!(code(&answer), refusal(*who, Want::Delete(key)), "{key} as {name}: {answer}");
        }
    }
}

#[tokio::test]
async fn who_is_not_approved_does_not_come_in() {
    // Another key than the first: who revokes that ends all that it has opened.
    let (still, key) = (still().await, keys().encryption);
    let mut owner = still.first_key("@alice").await;
    let mut ids = Vec::new();
    for name in ["pending", "denied", "revoked", "expired"] {
        ids.push(still.enroll(&mut owner, &key, name, r#"{"wavi":"rw"}"#).await);
    }
    decide(&mut owner, "deny", &ids[1]).await;
    still.approve(&mut owner, &ids[2]).await;
    let (mut app, answer) = still.pkam("@alice", &key, Some(&ids[2])).await;
    assert_eq!(answer, "data:success\n@alice@");
    app.succeeds("update:phone.wavi@alice 1").await;
    decide(&mut owner, "revoke", &ids[2]).await;
    assert_eq!(app.hear().await, None, "what is revoked is cut");
    // Nobody decides about the last within its time.
    let id = |place: usize| ids[place].clone();
    for (place, code, word) in [(0, "AT0026", "pending"), (1, "AT0025", "denied"), (2, "AT0027", "revoked")] {
        let (mut wire, answer) = still.pkam("@alice", &key, Some(&id(place))).await;
        assert_eq!(answer, format!("error:{code}:enrollment_id: {} is {word}\n@", id(place)));
        assert_eq!(code_of(&mut wire).await, "AT0401", "{word}");
    }
    tokio::time::advance(std::time::Duration::from_hours(49)).await;
    for gone in [id(3), id(0), "no-such-id".to_owned()] {
        let (mut wire, answer) = still.pkam("@alice", &key, Some(&gone)).await;
        assert_eq!(answer, format!("error:AT0028:enrollment_id: {gone} is expired or invalid\n@"));
        assert_eq!(code_of(&mut wire).await, "AT0401", "expired");
    }
}

#[tokio::test]
async fn a_reference_leads_no_application_out_of_its_namespaces() {
    let (still, key) = (still().await, keys().encryption);
    let mut owner = still.first_key("@alice").await;
    let id = still.enroll(&mut owner, &key, "app", r#"{"wavi":"rw"}"#).await;
    still.approve(&mut owner, &id).await;
    let (mut app, _) = still.pkam("@alice", &key, Some(&id)).await;
    owner.succeeds("update:@alice:secret.buzz@alice 1").await;
    owner.succeeds("update:@alice:open.wavi@alice 2").await;
    app.succeeds("update:@alice:door.wavi@alice atsign://secret.buzz@alice").await;
    assert_eq!(app.ask("lookup:door.wavi@alice").await, "data:null\n@alice@");
    assert_eq!(owner.ask("lookup:door.wavi@alice").await, "data:1\n@alice@");
    app.succeeds("update:@alice:door.wavi@alice atsign://open.wavi@alice").await;
    assert_eq!(app.ask("lookup:door.wavi@alice").await, "data:2\n@alice@");
}

/// What a connection that was not let in hears when it reads.
async fn code_of(wire: &mut Wire) -> String {
    code(&wire.ask("llookup:phone.wavi@alice").await).to_owned()
}
