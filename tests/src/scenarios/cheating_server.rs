//! A server that cheats. It can do with the records and notifications of its atSigns whatever it likes, and
//! knows all that is public; what it has not are the keys of their programs. So the cheat signs in as the
//! atSign and writes and sends what it likes, with keys of its own making. Gateway and reader are the real
//! ones: nothing that was made up, altered, moved or repeated may be taken, and where the cheat shows less than
//! before, nothing may be sent.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use at_client::{Client, ClientConfig, ClientTls, Directory, Trust, keyfile};
use at_protocol::crypto::envelope::{self, About};
use at_protocol::crypto::{AesKey, Iv};
use at_protocol::notification::Frame;
use at_protocol::verb::{Delete, Notify, NotifyList, Update, Verb};
use at_protocol::{AtKey, AtSign, KeyName, Metadata};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::broker::Broker;
use crate::gateway::{CLIENT, GATEWAY, Gateway, NAMESPACE, READER, Reader, gateway_town, mqtt_tables};
use crate::ledger::Arrival;
use crate::process::PATIENCE;
use crate::publisher::Publisher;
use crate::random::Random;
use crate::scenario::Run;
use crate::town::Town;

/// Readings that are published at a time.
const MANY: u64 = 20;
/// What the one device would never say.
const LIE: u64 = 999_999;

/// Receipts are forged, then telemetry, then the reader's record is set back and taken away.
///
/// # Errors
/// The cheat got through, or what is genuine did not.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let town = gateway_town(&run.folder)?;
    let broker = Broker::start(&run.folder, CLIENT)?;
    let gateway = Gateway::new(&town, &mqtt_tables(&broker.address))?;
    gateway.require("[\"receipts\", \"aead\"]")?;
    let devices = Publisher::connect(broker.address, "devices")?;
    let mut scene = Scene {
        reader: Some(reader(&town)?),
        arrivals: Vec::new(),
        cheat: Cheat::new(&town, run.random())?,
        devices,
        broker,
        gateway,
        town: &town,
        published: 0,
    };
    scene.gateway.start()?;
    scene.broker.until("the agent's subscription", |view| view.subscribed)?;
    scene.publish(MANY)?;
    scene.all_is_well()?;
    let receipts = scene.forge_receipts()?;
    let telemetry = scene.forge_telemetry()?;
    scene.set_back()?;
    run.note("receipts_refused", receipts);
    run.note("telemetry_refused", telemetry);
    run.note("published", scene.published);
    scene.gateway.stop()
}

fn reader(town: &Town) -> Result<Reader> {
    let state = town.folder.join("reader");
    Reader::start_with(town, &["--receipts", "--state", state.to_str().context("a path in UTF-8")?])
}

/// All who take part.
struct Scene<'a> {
    town: &'a Town,
    broker: Broker,
    devices: Publisher,
    gateway: Gateway,
    reader: Option<Reader>,
    /// What was read so far, by all readers one after the other.
    arrivals: Vec<Arrival>,
    cheat: Cheat,
    published: u64,
}

impl Scene<'_> {
    fn publish(&mut self, many: u64) -> Result<()> {
        let numbers = self.published + 1..=self.published + many;
        let reading = |n: u64| (format!("plain/boiler/{n}"), format!("{{\"n\":{n}}}"));
        self.published += many;
        self.devices.publish(&numbers.map(reading).collect::<Vec<_>>())?;
        let published = usize::try_from(self.published)?;
        self.broker.until("acknowledgements", |view| view.acknowledged().len() >= published)
    }

    /// All that was published was read, once, and is confirmed.
    fn all_is_well(&mut self) -> Result<()> {
        let published = usize::try_from(self.published)?;
        let before = std::mem::take(&mut self.arrivals);
        let reader = self.reader.as_mut().context("a reader")?;
        reader.arrivals.splice(..0, before);
        let news = |arrival: &&Arrival| !arrival.duplicate;
        let came = reader.until(PATIENCE, |arrivals| arrivals.iter().filter(news).count() >= published)?;
        ensure!(came, "not all that is genuine was read");
        let mut read: Vec<u64> = reader.arrivals.iter().filter(news).map(|arrival| arrival.n).collect();
        read.sort_unstable();
        ensure!(read == (1..=self.published).collect::<Vec<_>>(), "read {read:?}");
        let since = Instant::now();
        while self.gateway.unconfirmed()? > 0 {
            ensure!(since.elapsed() < PATIENCE, "genuine receipts are not taken");
        }
        Ok(())
    }

    /// While the reader is away, its server confirms in its name.
    fn forge_receipts(&mut self) -> Result<usize> {
        let arrival = self.reader.as_ref().and_then(|reader| reader.arrivals.last()).context("an arrival")?;
        let boot = arrival.boot.clone();
        self.arrivals = self.reader.take().context("a reader")?.stop()?;
        let before = self.cheat.received(READER, r"\.tel\.")?.len();
        let first = self.published + 1;
        self.publish(MANY)?;
        let since = Instant::now();
        while self.cheat.received(READER, r"\.tel\.")?.len() == before {
            ensure!(since.elapsed() < PATIENCE, "nothing was sent");
        }
        let name = format!("receipt.process.boiler.{NAMESPACE}");
        let lie = format!("{{\"atedge\":1,\"boot\":\"{boot}\",\"upto\":{first}}}");
        let genuine = self.cheat.received(GATEWAY, "receipt")?.pop().context("a receipt")?;
        let forged = self.cheat.forged(READER, GATEWAY, &name, &lie, &genuine)?;
        let many = forged.len();
        for frame in forged {
            self.cheat.show(&frame)?;
        }
        ensure!(many.is_power_of_two(), "the log says so for powers of two only");
        self.gateway.until_logged(0, &format!("refused={many}"))?;
        let unconfirmed = self.gateway.unconfirmed()?;
        ensure!(unconfirmed == MANY, "a forged receipt was taken: {unconfirmed} are not confirmed");
        self.reader = Some(reader(self.town)?);
        self.all_is_well()?;
        Ok(many)
    }

    /// The gateway's server says what the device never said.
    fn forge_telemetry(&mut self) -> Result<usize> {
        let name = format!("process.boiler.tel.{NAMESPACE}");
        let arrival = self.reader.as_ref().and_then(|reader| reader.arrivals.last()).context("an arrival")?;
        let lie = format!(
            "{{\"atedge\":1,\"device\":\"boiler\",\"stream\":\"process\",\"boot\":\"{}\",\"clk\":\"sync\",\"mono\":1,\
             \"senml\":[{{\"bn\":\"boiler/\",\"bt\":1795350000,\"n\":\"n\",\"v\":{LIE},\"seq\":{LIE}}}]}}",
            arrival.boot
        );
        let genuine = self.cheat.received(READER, r"\.tel\.")?.pop().context("telemetry")?;
        let forged = self.cheat.forged(GATEWAY, READER, &name, &lie, &genuine)?;
        // What was repeated to the letter is known by its numbers; what is in the clear is no telemetry.
        let many = forged.len() - 2;
        for frame in forged {
            self.cheat.show(&frame)?;
        }
        let mut refused = 0;
        while refused < many {
            let reader = self.reader.as_ref().context("a reader")?;
            let line = reader.process().line()?.context("the reader ended")?;
            let said: Value = serde_json::from_str(&line)?;
            ensure!(said["seq"].as_u64() != Some(LIE), "a forgery was read: {line}");
            ensure!(said.get("seq").is_none() || said["duplicate"] == true, "a repeat was news: {line}");
            refused += usize::from(said["refused"] == true);
        }
        self.publish(1)?;
        self.all_is_well()?;
        Ok(many)
    }

    /// The reader's server shows an older record of what it can do, then none, and the gateway sends nothing.
    fn set_back(&mut self) -> Result<()> {
        let old = self.cheat.record()?;
        let second = self.town.folder.join("second");
        let second = second.to_str().context("a path in UTF-8")?;
        self.town.use_tool(&["watch", READER, "--receipts", "--state", second, "--for", "1s"])?;
        let new = self.cheat.record()?;
        ensure!(old.0 != new.0, "a second program has announced nothing");
        self.restart()?;
        self.publish(1)?;
        self.all_is_well()?;
        for shown in [Some(&old), None] {
            self.cheat.set_record(shown)?;
            let behind = self.restart()?;
            self.publish(1)?;
            self.gateway.until_logged(behind, "cannot be sent now")?;
            ensure!(self.gateway.log()?[behind..].contains("holding what is for this peer"), "no alarm");
            ensure!(self.gateway.unconfirmed()? > 0, "something went out all the same");
        }
        self.cheat.set_record(Some(&new))?;
        self.all_is_well()
    }

    /// Starts the gateway anew; gives the length of its log before.
    fn restart(&mut self) -> Result<usize> {
        self.gateway.stop()?;
        let behind = self.gateway.log()?.len();
        self.gateway.start()?;
        Ok(behind)
    }
}

/// The server's operator, who signs in as his atSigns and has a key that is nobody's.
struct Cheat {
    runtime: Runtime,
    gateway: Client,
    reader: Client,
    random: Random,
}

impl Cheat {
    fn new(town: &Town, random: Random) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = |name: &str| -> Result<Client> {
            let tls = ClientTls::new(&Trust::Only(town.ca.clone()), None)?;
            let directory = format!("localhost:{}", town.directory.port()).parse()?;
            Ok(Client::new(ClientConfig {
                atsign: name.parse()?,
                keys: Arc::new(keyfile::read(&town.keys(name))?),
                directory: Arc::new(Directory::new(directory, tls.clone())),
                dialer: tls.into(),
            }))
        };
        Ok(Self { gateway: client(GATEWAY)?, reader: client(READER)?, runtime, random })
    }

    fn client(&self, name: &str) -> &Client {
        if name == GATEWAY { &self.gateway } else { &self.reader }
    }

    fn ask(&self, who: &str, verb: &Verb) -> Result<String> {
        Ok(self.runtime.block_on(self.client(who).ask(verb))?)
    }

    /// What has come for an atSign, oldest first.
    fn received(&self, whom: &str, regex: &str) -> Result<Vec<Frame>> {
        let list = NotifyList { regex: Some(regex.to_owned()), ..NotifyList::default() };
        let json = self.ask(whom, &Verb::NotifyList(list))?;
        let mut frames: Vec<Frame> = serde_json::from_str(&json)?;
        frames.sort_by_key(|frame| frame.epoch_millis);
        Ok(frames)
    }

    /// All that a cheat can make of `lie` and of a `genuine` notification.
    fn forged(&mut self, from: &str, to: &str, name: &str, lie: &str, genuine: &Frame) -> Result<Vec<Frame>> {
        let key = AesKey::from_bytes(std::array::from_fn(|_| self.random.byte()));
        let wrapped = self.client(to).config().keys.encryption.public().wrap_key(&key);
        let with = |id: &str, change: &dyn Fn(&mut Frame)| {
            let mut frame = Frame { id: id.to_owned(), ..genuine.clone() };
            change(&mut frame);
            frame
        };
        let under_own_key = |id: &str, inner: &str| {
            with(id, &|frame| {
                frame.value = Some(key.encrypt(&Iv::ZERO, inner.as_bytes()));
                let metadata = frame.metadata.get_or_insert_default();
                metadata.iv_nonce = Some(Iv::ZERO.to_base64());
                metadata.shared_key_enc = Some(wrapped.clone());
            })
        };
        let (sender, recipient): (AtSign, AtSign) = (from.parse()?, to.parse()?);
        let name: KeyName = name.parse()?;
        let about = About { from: &sender, to: &recipient, name: &name, id: "forged-envelope" };
        let nonce = std::array::from_fn(|_| self.random.byte());
        let inner = envelope::seal(&key, &about, nonce, true, lie.as_bytes());
        let flip = |frame: &mut Frame| {
            if let Some(value) = &mut frame.value {
                let flipped = if value.starts_with('A') { "B" } else { "A" };
                value.replace_range(..1, flipped);
            }
        };
        Ok(vec![
            under_own_key("forged", lie),
            under_own_key("forged-envelope", &inner),
            under_own_key("forged-noise", "AE1AAAA"),
            with("flipped", &flip),
            with("renumbered", &|_| {}),
            with("moved", &|frame| frame.key = frame.key.replace("boiler", "kiln")),
            with("clear", &|frame| {
                frame.value = Some(lie.to_owned());
                frame.is_encrypted = false;
                frame.metadata = None;
            }),
            // To the letter, which the server pushes once more.
            genuine.clone(),
        ])
    }

    /// Pushes a notification in the name of its sender.
    fn show(&self, frame: &Frame) -> Result<()> {
        let name: KeyName = frame.name().parse()?;
        let given = frame.metadata.clone().unwrap_or_default();
        let metadata = Metadata {
            is_encrypted: Some(frame.is_encrypted),
            iv_nonce: given.iv_nonce,
            shared_key_enc: given.shared_key_enc,
            ..Metadata::default()
        };
        let notify = Notify {
            id: Some(frame.id.clone()),
            metadata,
            ..Notify::of(frame.to.clone(), &name, frame.from.clone(), frame.value.clone())
        };
        self.ask(&frame.from.to_string(), &Verb::Notify(Box::new(notify)))?;
        Ok(())
    }

    fn record_key() -> Result<AtKey> {
        Ok(format!("public:caps.atedge{READER}").parse()?)
    }

    /// What the reader has announced, with its signature.
    fn record(&self) -> Result<(String, Metadata)> {
        let key = Self::record_key()?;
        let record = self.runtime.block_on(self.reader.get(&key))?.context("no record")?;
        Ok((String::from_utf8(record.value.to_vec())?, record.metadata.set))
    }

    /// Shows this instead, or nothing.
    fn set_record(&self, shown: Option<&(String, Metadata)>) -> Result<()> {
        let key = Self::record_key()?;
        let verb = match shown {
            Some((text, set)) => {
                let metadata = Metadata {
                    data_signature: set.data_signature.clone(),
                    is_encrypted: Some(false),
                    ..Metadata::default()
                };
                Verb::Update(Box::new(Update::of(key, metadata, text.clone())))
            }
            None => Verb::Delete(Delete::of(key)),
        };
        self.ask(READER, &verb)?;
        Ok(())
    }
}
