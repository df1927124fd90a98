//! Directories of all kinds.

use at_protocol::crypto::Ed25519Secret;
use at_protocol::directory::{Grant, Location, Registrar};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::*;
use crate::stub::{Authority, Town, listen};

async fn address(town: &Town, atsign: &AtSign) -> Option<Address> {
    town.directory.find(atsign).await.unwrap().map(|found| found.address)
}

#[tokio::test]
async fn answers_are_remembered_and_outlive_the_directory() {
    let mut town = Town::empty(&["@alice"]).await;
    let alice = "@alice".parse().unwrap();
    assert_eq!(town.directory.find(&"@nobody".parse().unwrap()).await.unwrap(), None);
    assert_eq!(address(&town, &alice).await.as_ref(), Some(&town.server));
    town.close_directory().await;
    assert_eq!(address(&town, &alice).await.as_ref(), Some(&town.server));
    // It is asked again, in vain, and the last good answer serves.
    town.directory.suspect(&alice);
    assert_eq!(address(&town, &alice).await.as_ref(), Some(&town.server));
    assert!(town.directory.find(&"@nobody".parse().unwrap()).await.is_err());
}

async fn asked(says: &'static str) -> Result<Option<Address>, ResolveError> {
    let authority = Authority::new();
    let serve = move |mut stream| async move {
        AsyncWriteExt::write_all(&mut stream, says.as_bytes()).await.unwrap();
        AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    };
    let (address, _tasks) = listen(authority.server_tls("localhost", |_| ()), serve).await;
    let found = Directory::new(address, authority.client_tls()).ask_anew(&"@alice".parse().unwrap()).await;
    found.map(|found| found.map(|found| found.address))
}

#[tokio::test]
async fn whatever_a_directory_says_is_an_answer_or_an_error() {
    assert_eq!(asked("@null\r\n@").await.unwrap(), None);
    assert_eq!(asked("@@host.example:6464\r\n@").await.unwrap().unwrap().port(), 6464);
    for says in ["", "@", "@host.example:6464", "HTTP/1.1 400 Bad Request\r\n"] {
        assert!(matches!(asked(says).await, Err(ResolveError::Io { .. })), "{says}");
    }
    let stopping = asked("@Stop in progress. Can't accept new requests.\n@").await;
    assert!(matches!(stopping, Err(ResolveError::Answer { .. })));
}

/// A directory that says of everybody what it is told to say, on connections for records.
struct Liar {
    authority: Authority,
    address: Address,
    says: Arc<Mutex<String>>,
    tasks: JoinSet<()>,
}

/// Remembers what it was given.
#[derive(Default)]
struct Kept(Mutex<Vec<SignedRecord>>);

impl RecordKeeper for Kept {
    fn keep<'a>(&'a self, record: &'a Arc<VerifiedRecord>) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.0.lock().unwrap().push(SignedRecord::clone(record));
        Box::pin(std::future::ready(()))
    }
}

impl Liar {
    async fn new() -> Self {
        let authority = Authority::new();
        let mut config = rustls::ServerConfig::clone(authority.server_tls("localhost", |_| ()).config());
        config.alpn_protocols = vec![EXTENDED.to_vec()];
        let says = Arc::new(Mutex::new(String::new()));
        let answer = Arc::clone(&says);
        let serve = move |stream| {
            let answer = Arc::clone(&answer);
            async move {
                let mut stream = BufReader::new(stream);
                stream.write_all(b"@").await.unwrap();
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|size| size > 0) {
                    let record = answer.lock().unwrap().clone();
                    let said = if line.starts_with("record:") { record } else { "old.example:1".into() };
                    line.clear();
                    if stream.write_all(format!("{said}\r\n@").as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        };
        let (address, tasks) = listen(TlsAcceptor::from(Arc::new(config)), serve).await;
        Self { authority, address, says, tasks }
    }

    fn say(&self, record: &SignedRecord) {
        *self.says.lock().unwrap() = record.to_string();
    }

    fn trusted(&self, atsigns: &[&str], kept: Vec<SignedRecord>, keeper: &Arc<Kept>) -> Directory {
        let atsigns = atsigns.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let registrars = Registrars::new(vec![Registrar { key: key(1).public(), atsigns }]);
        let directory = Directory::new(self.address.clone(), self.authority.client_tls());
        directory.trusting(registrars, kept, Arc::clone(keeper) as Arc<dyn RecordKeeper>).keeping(2)
    }
}

fn key(first: u8) -> Ed25519Secret {
    Ed25519Secret::from_seed(&Zeroizing::new([first; 32]))
}

fn record(atsign: &str, node: u8, seq: u64) -> SignedRecord {
    let end = wall().plus_millis(3_600_000);
    let grant = Grant::sign(&key(1), key(node).public(), vec!["*".parse().unwrap()], end);
    let address = format!("node{node}.example:6464").parse().unwrap();
    let at = Location { address, quic: 6464, seq, not_after: end };
    SignedRecord::sign(&key(node), atsign.parse().unwrap(), at, grant)
}

#[tokio::test]
async fn a_directory_that_lies_or_was_set_back_cannot_misdirect() {
    let mut liar = Liar::new().await;
    let (kept, alice) = (Arc::new(Kept::default()), "@alice".parse().unwrap());
    let directory = liar.trusted(&[], Vec::new(), &kept);
    liar.say(&record("@alice", 2, 5));
    let found = directory.find(&alice).await.unwrap().unwrap();
    assert_eq!((found.node(), found.address.host()), (Some(&key(2).public()), "node2.example"));
    assert!(directory.is_bound(&alice));
    // Each of these is refused, and the record that was believed serves on.
    let stolen = {
        let mut stolen = record("@alice", 3, 9);
        stolen.grant = record("@alice", 2, 9).grant;
        stolen
    };
    let unsigned = "null".to_owned();
    let lies = [record("@alice", 2, 4), record("@alice", 3, 5), record("@bob", 2, 9), stolen];
    for lie in lies.iter().map(ToString::to_string).chain([unsigned, "no record".to_owned()]) {
        directory.suspect(&alice);
        *liar.says.lock().unwrap() = lie.clone();
        assert_eq!(directory.find(&alice).await.unwrap(), Some(found.clone()), "{lie}");
    }
    assert_eq!(directory.refused(), 4);
    // A newer one is followed, wherever it leads.
    directory.suspect(&alice);
    liar.say(&record("@alice", 3, 6));
    let moved = directory.find(&alice).await.unwrap().unwrap();
    assert_eq!(moved.node(), Some(&key(3).public()));
    let numbers: Vec<_> = kept.0.lock().unwrap().iter().map(|record| record.at.seq).collect();
    assert_eq!(numbers, [5, 6]);
    // After a restart, too, and without the directory.
    let kept_before = kept.0.lock().unwrap().clone();
    let restarted = liar.trusted(&[], kept_before, &kept);
    liar.say(&record("@alice", 2, 5));
    assert_eq!(restarted.find(&alice).await.unwrap(), Some(moved.clone()));
    restarted.suspect(&alice);
    liar.tasks.shutdown().await;
    assert_eq!(restarted.find(&alice).await.unwrap(), Some(moved));
}

#[tokio::test]
async fn an_answer_that_was_overtaken_is_not_used() {
    let liar = Liar::new().await;
    let (kept, alice) = (Arc::new(Kept::default()), "@alice".parse().unwrap());
    let directory = liar.trusted(&[], Vec::new(), &kept);
    // Both were checked before either was remembered.
    let checked = |seq, node| Found::from(directory.check(&alice, record("@alice", node, seq)).unwrap());
    let (older, newer) = (checked(5, 2), checked(6, 3));
    assert_eq!(directory.remember(&alice, newer.clone()).await, newer);
    assert_eq!(directory.remember(&alice, older).await, newer);
}

#[tokio::test]
async fn who_has_no_record_is_found_as_of_old_unless_a_registrar_calls_it_its_own() {
    let liar = Liar::new().await;
    let kept = Arc::new(Kept::default());
    *liar.says.lock().unwrap() = "null".to_owned();
    let open = liar.trusted(&[], Vec::new(), &kept);
    let found = open.find(&"@old".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((found.address.to_string(), found.node()), ("old.example:1".to_owned(), None));
    let owned = liar.trusted(&["@plant7*"], Vec::new(), &kept);
    let refused = owned.find(&"@plant7gw".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refused, ResolveError::Unsigned { .. }) && refused.is_transient());
    assert!(owned.find(&"@old".parse().unwrap()).await.unwrap().is_some());
}
