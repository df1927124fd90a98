//! What the server of the town knows and does.

use std::collections::{BTreeMap, HashMap};

use at_protocol::crypto::{Hash, PkamPublicKey, cram_matches};
use at_protocol::keys::AtKeys;
use at_protocol::metadata::RecordMetadata;
use at_protocol::notification::{Frame, FrameMetadata};
use at_protocol::response::{ErrorCode, Failure};
use at_protocol::session::server::{Challenge, Hosts, Identity, OwnerAuth, Proof};
use at_protocol::verb::{Enroll, EnrollRequest, Monitor, Notify, Shape, Verb};
use at_protocol::{AtKey, AtSign, Metadata, Response, Timestamp};
use tokio::sync::{mpsc, watch};

use super::SECRET;

/// All tenants, and what is to go wrong.
#[derive(Default)]
pub(crate) struct World {
    tenants: HashMap<AtSign, Tenant>,
    faults: Vec<Fault>,
    numbers: i64,
    /// When the last notification was taken, in milliseconds since the epoch; each has its own.
    moment: i64,
    /// All lines that were said, in their order.
    pub(crate) lines: Vec<String>,
    heard: watch::Sender<()>,
    /// As older servers do, a prompt follows each answer to a monitor, too.
    pub(crate) prompts_on_monitors: bool,
    /// As older servers do, replayed notifications lack `sharedKeyEnc`.
    pub(crate) replays_without_keys: bool,
}

#[derive(Default)]
struct Tenant {
    records: BTreeMap<String, (String, Metadata)>,
    received: Vec<Frame>,
    sent: Vec<String>,
    monitors: Vec<mpsc::UnboundedSender<String>>,
}

/// The connection on which a line is said that begins like this breaks, once.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) line: String,
    pub(crate) when: When,
}

/// When the connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// The line is lost.
    Before,
    /// The line is obeyed, its answer lost.
    After,
    /// Nothing more is said, nor is the connection closed.
    Hang,
}

impl Hosts for World {
    fn hosts(&self, atsign: &AtSign) -> bool {
        self.is_hosted(atsign)
    }

    fn blocks(&self, _: &AtSign, _: &AtSign) -> bool {
        false
    }
}

impl World {
    /// Pushed to a connection, it ends it.
    pub(super) const HANG_UP: &str = "hang up";

    pub(crate) fn next_number(&mut self) -> i64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn is_hosted(&self, atsign: &AtSign) -> bool {
        self.tenants.contains_key(atsign)
    }

    pub(crate) fn host(&mut self, atsign: AtSign) {
        self.tenants.insert(atsign.clone(), Tenant::default());
        self.set(&atsign, "privatekey:at_secret", SECRET);
    }

    /// As if the atSign had been activated with `keys`, without enrollment.
    pub(crate) fn activate(&mut self, atsign: &AtSign, keys: &AtKeys) {
        self.set(atsign, "privatekey:at_pkam_publickey", keys.pkam.public().to_base64());
        self.set(atsign, &format!("public:publickey{atsign}"), keys.encryption.public().to_base64());
        self.tenant(atsign).records.remove("privatekey:at_secret");
    }

    /// From now on the next line that begins with `line` breaks its connection.
    pub(crate) fn fault(&mut self, line: &str, when: When) {
        self.faults.push(Fault { line: line.to_owned(), when });
    }

    /// Ends all monitors of an atSign.
    pub(crate) fn hang_up_monitors(&mut self, name: &str) {
        for monitor in self.tenant(&name.parse().unwrap()).monitors.drain(..) {
            monitor.send(Self::HANG_UP.to_owned()).unwrap();
        }
    }

    /// Sends a raw text to all monitors of an atSign.
    pub(crate) fn push(&mut self, name: &str, text: &str) {
        for monitor in &self.tenant(&name.parse().unwrap()).monitors {
            monitor.send(text.to_owned()).unwrap();
        }
    }

    /// How often a line that begins like this was said.
    pub(crate) fn count(&self, line: &str) -> usize {
        self.lines.iter().filter(|said| said.starts_with(line)).count()
    }

    pub(super) fn heard_so_far(&self) -> watch::Receiver<()> {
        self.heard.subscribe()
    }

    /// The value and metadata of a record, by its full key.
    pub(crate) fn record(&mut self, owner: &str, key: &str) -> Option<(String, Metadata)> {
        self.tenant(&owner.parse().unwrap()).records.get(key).cloned()
    }

    /// Changes a record behind the clients' backs.
    pub(crate) fn edit(&mut self, owner: &str, key: &str, edit: impl FnOnce(&mut String, &mut Metadata)) {
        let tenant = self.tenant(&owner.parse().unwrap());
        let (value, metadata) = tenant.records.entry(key.to_owned()).or_default();
        edit(value, metadata);
    }

    /// What an atSign has received, to be changed and sent again by [`World::deliver`].
    pub(crate) fn received(&mut self, name: &str) -> &mut Vec<Frame> {
        &mut self.tenant(&name.parse().unwrap()).received
    }

    /// Puts a notification where its recipient finds it, at the next moment.
    pub(crate) fn deliver(&mut self, mut frame: Frame) {
        let now = Timestamp::from(std::time::SystemTime::now()).as_millis();
        self.moment = now.max(self.moment + 1);
        frame.epoch_millis = self.moment;
        let to = self.tenant(&frame.to.clone());
        to.monitors.retain(|monitor| monitor.send(frame.line()).is_ok());
        to.received.push(frame);
    }

    pub(super) fn heard(&mut self, line: &str) -> Option<Fault> {
        self.lines.push(line.to_owned());
        self.heard.send_replace(());
        let place = self.faults.iter().position(|fault| line.starts_with(&fault.line))?;
        Some(self.faults.remove(place))
    }

    fn tenant(&mut self, atsign: &AtSign) -> &mut Tenant {
        self.tenants.get_mut(atsign).unwrap()
    }

    fn set(&mut self, owner: &AtSign, key: &str, value: &str) {
        self.tenant(owner).records.insert(key.to_owned(), (value.to_owned(), Metadata::default()));
    }

    fn value(&self, owner: &AtSign, key: &str) -> Option<&(String, Metadata)> {
        self.tenants.get(owner).and_then(|tenant| tenant.records.get(key))
    }

    pub(super) fn verify(
        &mut self,
        tenant: &AtSign,
        challenge: Option<Challenge>,
        proof: &Proof,
    ) -> Result<Identity, Response> {
        let refused = |code| Response::Error(Failure::new(code, "no"));
        let text = challenge.ok_or(refused(ErrorCode::KeyNotFound))?.text();
        let stored = |key: &str| self.value(tenant, key).map(|(value, _)| value.clone());
        match proof {
            Proof::Cram(cram) => {
                let secret = stored("privatekey:at_secret").ok_or(refused(ErrorCode::KeyNotFound))?;
                cram_matches(&secret, &text, &cram.digest)
                    .then_some(Identity::Owner(OwnerAuth::Cram))
                    .ok_or(refused(ErrorCode::NotAuthenticated))
            }
            Proof::Pkam(pkam) => {
                let (key, who) = match &pkam.enrollment {
                    None => (stored("privatekey:at_pkam_publickey"), OwnerAuth::PkamLegacy),
                    Some(id) => {
                        let record = stored(&format!("{id}.new.enrollments.__manage{tenant}"));
                        let unknown = Response::State(ErrorCode::EnrollmentExpired, "unknown".into());
                        let record: serde_json::Value =
                            serde_json::from_str(&record.ok_or(unknown)?).unwrap();
                        if record["approval"]["state"] == "revoked" {
                            return Err(Response::State(ErrorCode::EnrollmentRevoked, "revoked".into()));
                        }
                        let key = record["apkamPublicKey"].as_str().map(str::to_owned);
                        (key, OwnerAuth::Apkam(id.clone()))
                    }
                };
                let key: PkamPublicKey = key.ok_or(refused(ErrorCode::KeyNotFound))?.parse().unwrap();
                key.verify(&text, Hash::Sha256, &pkam.signature)
                    .then_some(Identity::Owner(who))
                    .ok_or(refused(ErrorCode::NotAuthenticated))
            }
            Proof::Pol => Err(refused(ErrorCode::Handshake)),
        }
    }

    pub(super) fn subscribe(
        &mut self,
        tenant: &AtSign,
        monitor: &Monitor,
        push: mpsc::UnboundedSender<String>,
    ) -> Result<(), Failure> {
        if monitor.regex.as_deref() == Some("(") {
            return Err(Failure::new(ErrorCode::InvalidSyntax, "Invalid regular expression"));
        }
        let without_keys = self.replays_without_keys;
        let tenant = self.tenant(tenant);
        let since = monitor.since.map_or(i64::MAX, Timestamp::as_millis);
        for mut frame in tenant.received.iter().filter(|frame| frame.epoch_millis > since).cloned() {
            if let Some(metadata) = frame.metadata.as_mut().filter(|_| without_keys) {
                metadata.shared_key_enc = None;
            }
            push.send(frame.line()).unwrap();
        }
        tenant.monitors.push(push);
        Ok(())
    }

    pub(super) fn apply(&mut self, tenant: &AtSign, who: &Identity, verb: Verb) -> Result<Response, Failure> {
        let commit = Response::Data(self.next_number().to_string());
        Ok(match verb {
            Verb::Update(update) => {
                let records = &mut self.tenant(tenant).records;
                let key = update.key.to_string();
                let (value, before) = records.get(&key).cloned().unwrap_or_default();
                let value = update.value.unwrap_or(value);
                records.insert(key, (value, update.metadata.merged_over(&before)));
                commit
            }
            Verb::Delete(delete) => {
                self.tenant(tenant).records.remove(&delete.key.to_string());
                commit
            }
            Verb::LLookup(lookup) => self.show(tenant, &lookup.key, lookup.shape)?,
            Verb::Lookup(lookup) => {
                let (name, owner) = (lookup.name, lookup.owner.clone());
                let key = match who {
                    Identity::Owner(_) => AtKey::Shared { name, owner, with: tenant.clone() },
                    Identity::Anonymous | Identity::Peer(_) => AtKey::Public { name, owner },
                };
                self.show(&lookup.owner, &key, lookup.shape)?
            }
            Verb::PLookup(lookup) => {
                let key = AtKey::Public { name: lookup.name, owner: lookup.owner.clone() };
                self.show(&lookup.owner, &key, lookup.shape)?
            }
            Verb::Scan(scan) => {
                let wanted = scan.regex.unwrap_or_default().replace('\\', "");
                let keys = self.tenant(tenant).records.keys().filter(|key| key.contains(&wanted));
                Response::Data(serde_json::to_string(&keys.collect::<Vec<_>>()).unwrap())
            }
            Verb::Notify(notify) => Response::Data(self.notify(tenant, *notify)?),
            Verb::NotifyStatus(status) => {
                let known = self.tenant(tenant).sent.contains(&status.id);
                Response::Data(if known { "delivered" } else { "null" }.to_owned())
            }
            Verb::NotifyRemove(remove) => {
                self.tenant(tenant).received.retain(|frame| frame.id != remove.id);
                Response::Data("success".to_owned())
            }
            Verb::Noop(_) => Response::Data("ok".to_owned()),
            Verb::Enroll(enroll) => Response::Data(self.enroll(tenant, who, *enroll)?),
            Verb::From(_)
            | Verb::To(_)
            | Verb::Cram(_)
            | Verb::Pkam(_)
            | Verb::Pol
            | Verb::NotifyAll(_)
            | Verb::NotifyList(_)
            | Verb::NotifyFetch(_)
            | Verb::Monitor(_)
            | Verb::Info(_)
            | Verb::Stats(_)
            | Verb::Sync(_)
            | Verb::Otp(_)
            | Verb::Keys(_)
            | Verb::Config(_)
            | Verb::Batch(_)
            | Verb::Stream(_) => panic!("this server has no need of that verb"),
        })
    }

    fn show(&self, owner: &AtSign, key: &AtKey, shape: Shape) -> Result<Response, Failure> {
        let missing = || Failure::new(ErrorCode::KeyNotFound, format!("{key} does not exist in keystore"));
        let (value, set) = self.value(owner, &key.to_string()).ok_or_else(missing)?;
        let metadata = RecordMetadata { set: set.clone(), ..RecordMetadata::default() };
        let all = serde_json::json!({ "key": key, "data": value, "metaData": metadata });
        Ok(Response::Data(match shape {
            Shape::Value => value.clone(),
            Shape::Meta => all["metaData"].to_string(),
            Shape::All => all.to_string(),
        }))
    }

    fn notify(&mut self, from: &AtSign, notify: Notify) -> Result<String, Failure> {
        if !self.is_hosted(&notify.to) {
            return Err(Failure::new(ErrorCode::SecondaryNotFound, "no such atSign"));
        }
        let id = notify.id.unwrap();
        self.tenant(from).sent.push(id.clone());
        self.deliver(Frame {
            id: id.clone(),
            from: from.clone(),
            key: format!("{}:{}{from}", notify.to, notify.key),
            to: notify.to,
            value: notify.value,
            operation: notify.operation.unwrap_or_default(),
            epoch_millis: 0,
            message_type: notify.message_type.unwrap_or_default(),
            is_encrypted: notify.metadata.is_encrypted == Some(true),
            metadata: Some(FrameMetadata::from(&notify.metadata)),
        });
        Ok(id)
    }

    fn enroll(&mut self, tenant: &AtSign, who: &Identity, enroll: Enroll) -> Result<String, Failure> {
        let Enroll::Request(EnrollRequest { app_name, device_name, apkam_public_key, .. }) = enroll else {
            panic!("this server decides about no enrollment");
        };
        assert_eq!(who, &Identity::Owner(OwnerAuth::Cram));
        let taken = self.tenant(tenant).records.keys().any(|key| key.contains(".new.enrollments."));
        if taken {
            return Err(Failure::new(ErrorCode::InternalException, "Another enrollment exists"));
        }
        let id = format!("enrollment-{}", self.next_number());
        let record = serde_json::json!({
            "appName": app_name,
            "deviceName": device_name,
            "apkamPublicKey": apkam_public_key,
            "approval": { "state": "approved" },
        });
        self.set(tenant, &format!("{id}.new.enrollments.__manage{tenant}"), &record.to_string());
        self.set(tenant, "privatekey:at_pkam_publickey", &apkam_public_key.unwrap());
        Ok(serde_json::json!({ "enrollmentId": id, "status": "approved" }).to_string())
    }
}
