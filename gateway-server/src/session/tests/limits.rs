//! What a connection may take: memory, time, its tenant's places, attempts.

use std::net::Ipv4Addr;

use tokio::time::Instant;

use super::*;

impl Client {
    /// From an address of its own.
    async fn from(node: &Arc<Node>, number: u8) -> Self {
        let (stream, server) = duplex(ROOM);
        let address = Some((Ipv4Addr::new(192, 0, 2, number), 1).into());
        let caller = Caller { address, ..Caller::default() };
        tokio::spawn(serve(server, Arc::clone(node), caller, CancellationToken::new()));
        let mut client = Self { stream, seen: String::new() };
        assert_eq!(client.until("@").await, "@");
        client
    }

    async fn guess(&mut self) -> String {
        self.challenge("@alice").await;
        self.write("cram:00\n").await;
        self.until("\n@").await
    }
}

#[tokio::test]
async fn long_lines_wait_for_room_and_are_all_answered() {
    let node = node("[limits.node]\nbuffers = 10000").await;
    let mut first = Client::connect(&node).await;
    // More than the pipe holds, so that most of it has been read when the others begin.
    first.write(&"x".repeat(3 * ROOM)).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut other = Client::connect(&node).await;
        let long = format!("{}\n", "x".repeat(3 * ROOM));
        others.push(tokio::spawn(async move {
            other.write(&long).await;
            other.until("error:AT0003").await;
        }));
    }
    tokio::task::yield_now().await;
    assert!(others.iter().all(|other| !other.is_finished()));
    first.write("\n").await;
    first.until("error:AT0003").await;
    for other in others {
        other.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_line_that_finds_no_room_is_told_so_in_the_end() {
    let node = node("").await;
    let _all = node.admission.room().take(usize::MAX, false).unwrap();
    let mut stranger = Client::connect(&node).await;
    stranger.write(&"x".repeat(3 * ROOM)).await;
    let answer = stranger.rest().await;
    assert_eq!(answer, "error:AT0005-Exception: the server has no room for a long line now\n@");
    // Who has proved something does not wait for strangers.
    let mut alice = Client::owner(&node, "@alice").await;
    alice.says(&format!("update:a@alice {}", "x".repeat(3 * ROOM)), "data:0\n@alice@").await;
    let _all = node.admission.room().take(usize::MAX, true).unwrap();
    alice.write("llookup:a@alice\n").await;
    let answer = alice.until("\n@alice@").await;
    assert!(answer.starts_with("error:AT0005-") && answer.contains("ask again later"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_line_has_its_own_deadline() {
    let node = node("[limits.node]\nline = \"30s\"").await;
    for name in [None, Some("@alice")] {
        let mut client = match name {
            None => Client::connect(&node).await,
            Some(name) => Client::owner(&node, name).await,
        };
        client.says("noop:0", &format!("data:ok\n{}@", name.unwrap_or_default())).await;
        let began = Instant::now();
        // One byte a second, and never a whole line.
        while client.stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(began.elapsed() < Duration::from_secs(60), "it was put up with");
        }
        assert!(began.elapsed() >= Duration::from_secs(30));
    }
}

#[tokio::test]
async fn a_tenants_places_are_counted_and_its_owners_kept() {
    let node = node("[limits.tenant]\nconnections = 3\nreserved = 2").await;
    let mut strangers = Vec::new();
    for _ in 0..3 {
        let mut stranger = Client::connect(&node).await;
        stranger.challenge("@alice").await;
        strangers.push(stranger);
    }
    let mut refused = Client::connect(&node).await;
    refused.write("from:@alice\n").await;
    assert_eq!(refused.rest().await, FULL);
    // Others are not concerned, and a place comes back.
    Client::connect(&node).await.challenge("@bob").await;
    drop(strangers.pop());
    while node.admission.seat(&"@alice".parse().unwrap()).is_none() {
        tokio::task::yield_now().await;
    }
    Client::owner(&node, "@alice").await;
}

#[tokio::test(start_paused = true)]
async fn in_the_owners_share_one_has_to_be_the_owner() {
    let node = node("[limits.tenant]\nconnections = 3\nreserved = 2\n[limits.node]\nlogin = \"30s\"").await;
    let mut stranger = Client::connect(&node).await;
    stranger.challenge("@alice").await;
    let mut trial = Client::connect(&node).await;
    let began = Instant::now();
    trial.challenge("@alice").await;
    trial.says("noop:0", "data:ok\n@").await;
    assert_eq!(trial.rest().await, "");
    assert_eq!(began.elapsed().as_secs(), 30);
    let mut owner = Client::owner(&node, "@alice").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    owner.says("noop:0", "data:ok\n@alice@").await;
}

#[tokio::test(start_paused = true)]
async fn guessers_wait_and_are_refused_and_the_owner_is_let_in() {
    let node = node("[limits.logins]\nfree = 2\nrefused = 5\nwait = \"1s\"").await;
    let mut guesser = Client::from(&node, 1).await;
    let wrong = "error:AT0401-Exception: Authentication Failed\n@";
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(guesser.guess().await, wrong);
    }
    assert_eq!(began.elapsed().as_millis(), 100 + 200);
    let refused = guesser.guess().await;
    assert!(refused.contains("too many failed logins from this address"), "{refused}");
    // From elsewhere it takes a second, and is heard.
    let mut owner = Client::from(&node, 2).await;
    let challenge = owner.challenge("@alice").await;
    owner.says(&format!("cram:{}", cram_digest(SECRET, &challenge)), "data:success\n@alice@").await;
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_patience_is_short() {
    let node = node("[limits.tenant]\nconnections = 4\nreserved = 0").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(&node).await;
        client.challenge("@alice").await;
        clients.push(client);
    }
    let began = Instant::now();
    assert_eq!(clients.pop().unwrap().rest().await, "");
    assert!(began.elapsed() <= Duration::from_secs(65), "{:?}", began.elapsed());
}
