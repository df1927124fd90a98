//! The link between namespaces, measured by what it is asked to do: what is built on it rests on this.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::net::Net;
use crate::process::PATIENCE;
use crate::scenario::Run;

/// Datagrams that are sent before all that pass are taken: fewer than a socket keeps.
const BATCH: u64 = 50;
/// Bytes of a datagram's headers.
const HEADERS: u64 = 28;
const PORT: u16 = 7000;

/// Datagrams and a stream between two hosts.
///
/// # Errors
/// The network does something else than it was asked to.
pub(super) fn run(run: &mut Run) -> Result<()> {
    let net = Net::start(&run.folder, run.seed, &["a", "b"])?;
    let road = Road::new(&net)?;
    clean(&road)?;
    lossy(run, &road)?;
    reordered(run, &road)?;
    cut_and_narrow(&road)?;
    rate(run, &road)?;
    let (a, b) = (net.host("a")?, net.host("b")?);
    net.tell("*<>* clear")?;
    // Rules and addresses: a datagram that comes from where it should.
    net.show("a", "b", 77)?;
    ensure!(road.sender_seen()? == Some(a.other_address(77)), "another address was not seen");
    net.tell("a>b as itself")?;
    ensure!(road.sender_seen()? == Some(a.address()), "the own address is not seen again");
    b.block_udp()?;
    ensure!(road.sender_seen()?.is_none(), "blocked UDP arrived");
    b.unfilter()?;
    b.unplug()?;
    ensure!(road.sender_seen()?.is_none(), "something came through an unplugged cable");
    b.plug()?;
    ensure!(road.sender_seen()? == Some(a.address()), "nothing comes through the cable again");
    throughput(run, &net)
}

fn clean(road: &Road<'_>) -> Result<()> {
    let arrived = road.send(1_000, 64)?;
    ensure!(arrived.iter().map(|(number, _)| *number).eq(0..1_000), "a clean link is not clean");
    Ok(())
}

/// Loss within five standard deviations of what was asked, the delay on every datagram.
fn lossy(run: &mut Run, road: &Road<'_>) -> Result<()> {
    let (sent, delay) = (if run.long { 100_000 } else { 10_000 }, Duration::from_millis(40));
    road.net.tell("a>b loss=3% delay=40ms jitter=5ms duplicate=1%")?;
    let before = road.net.counter("a>b", "lost")?;
    let arrived = road.send(sent, 64)?;
    let lost = road.net.counter("a>b", "lost")? - before;
    let mut different: Vec<u64> = arrived.iter().map(|(number, _)| *number).collect();
    ensure!(different.is_sorted(), "the order was lost, though nothing was to reorder");
    different.dedup();
    let (missing, twice) = (sent - len(&different), len(&arrived) - len(&different));
    let fastest = arrived.iter().map(|(_, took)| *took).min().context("nothing arrived")?;
    run.note("sent", sent);
    run.note("lost", missing);
    run.note("duplicated", twice);
    run.note("fastest_us", u64::try_from(fastest.as_micros())?);
    ensure!(missing == lost, "{missing} are missing and {lost} were lost on purpose");
    near(missing, sent, 3, "lost")?;
    near(twice, sent, 1, "doubled")?;
    ensure!(fastest >= delay, "a delay of {delay:?} took {fastest:?}");
    road.net.tell("a>b clear")
}

fn reordered(run: &mut Run, road: &Road<'_>) -> Result<()> {
    road.net.tell("a>b reorder=5% reorder-by=20ms")?;
    let arrived = road.send(2_000, 64)?;
    let overtaken = arrived.windows(2).filter(|pair| pair[1].0 < pair[0].0).count();
    run.note("overtaken", overtaken);
    ensure!(len(&arrived) == 2_000 && overtaken > 10, "{overtaken} of {} were overtaken", arrived.len());
    road.net.tell("a>b clear")
}

fn cut_and_narrow(road: &Road<'_>) -> Result<()> {
    road.net.tell("a>b cut")?;
    ensure!(road.send(100, 64)?.is_empty(), "something passed a cut");
    road.net.tell("a>b heal mtu=1000")?;
    ensure!(len(&road.send(100, 1000 - HEADERS)?) == 100, "what fits did not pass");
    ensure!(road.send(100, 1001 - HEADERS)?.is_empty(), "what does not fit passed");
    road.net.tell("a>b clear")
}

/// Never faster than asked; how much slower is the machine's business.
fn rate(run: &mut Run, road: &Road<'_>) -> Result<()> {
    road.net.tell("a>b rate=1000000")?;
    let since = Instant::now();
    let arrived = road.send(1_000, 1_000 - HEADERS)?;
    let took = since.elapsed();
    run.note("a_megabyte_at_a_megabyte_a_second_ms", u64::try_from(took.as_millis())?);
    ensure!(len(&arrived) == 1_000, "the queue of {BATCH} datagrams overflowed");
    ensure!(took >= Duration::from_millis(999), "a megabyte took {took:?} at a megabyte a second");
    road.net.tell("a>b clear")
}

/// A TCP stream through the link without impairments.
fn throughput(run: &mut Run, net: &Net) -> Result<()> {
    let megabytes: usize = if run.long { 1_000 } else { 200 };
    let (a, b) = (net.host("a")?, net.host("b")?);
    let listener = b.inside(|| Ok(TcpListener::bind((b.address(), PORT))?))?;
    let mut sender = a.inside(|| Ok(TcpStream::connect((b.address(), PORT))?))?;
    let (mut receiver, _) = listener.accept()?;
    let since = Instant::now();
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        let block = vec![7; 1_000_000];
        for _ in 0..megabytes {
            sender.write_all(&block)?;
        }
        Ok(())
    });
    let (mut block, mut received) = (vec![0; 1_000_000], 0);
    loop {
        match receiver.read(&mut block)? {
            0 => break,
            count => received += count,
        }
    }
    let took = since.elapsed();
    sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    ensure!(received == megabytes * 1_000_000, "{received} bytes of {megabytes} MB came");
    run.note(
        "tcp_megabytes_a_second",
        u64::try_from(megabytes * 1000)? / u64::try_from(took.as_millis().max(1))?,
    );
    Ok(())
}

/// Two hosts with a socket each, from `a` to `b`.
struct Road<'a> {
    net: &'a Net,
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl<'a> Road<'a> {
    fn new(net: &'a Net) -> Result<Self> {
        let (a, b) = (net.host("a")?, net.host("b")?);
        let sender = a.inside(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
        let receiver = b.inside(|| Ok(UdpSocket::bind((b.address(), PORT))?))?;
        sender.connect(receiver.local_addr()?)?;
        Ok(Self { net, sender, receiver })
    }

    /// Sends numbered datagrams; gives those that arrive, with how long they took.
    fn send(&self, datagrams: u64, length: u64) -> Result<Vec<(u64, Duration)>> {
        let began = Instant::now();
        let mut arrived = Vec::new();
        let mut buffer = [0; 2048];
        let passed_before = self.passed()?;
        let mut number = 0;
        self.receiver.set_read_timeout(Some(PATIENCE))?;
        while number < datagrams {
            for _ in 0..BATCH.min(datagrams - number) {
                let mut datagram = number.to_be_bytes().to_vec();
                datagram.extend(u64::try_from(began.elapsed().as_nanos())?.to_be_bytes());
                datagram.resize(usize::try_from(length)?, 0);
                self.sender.send(&datagram)?;
                number += 1;
            }
            // Those that the link has passed on are there to be read.
            while arrived.len() < usize::try_from(self.passed_of(number, passed_before)?)? {
                let count = self.receiver.recv(&mut buffer).context("a datagram that was passed on")?;
                ensure!(u64::try_from(count)? == length, "a datagram of {count} bytes");
                let number = |at: usize| buffer[at..at + 8].try_into().map(u64::from_be_bytes);
                let took = began.elapsed() - Duration::from_nanos(number(8)?);
                arrived.push((number(0)?, took));
            }
        }
        Ok(arrived)
    }

    /// Which address a datagram comes from, if it comes.
    fn sender_seen(&self) -> Result<Option<Ipv4Addr>> {
        let before = self.offered()?;
        self.sender.send(&[0; 16])?;
        let since = Instant::now();
        while self.offered()? == before {
            ensure!(since.elapsed() < PATIENCE, "a datagram never reached the link");
        }
        // It was handed over when the link answered; what is still not there was dropped.
        self.receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
        match self.receiver.recv_from(&mut [0; 16]) {
            Ok((_, from)) => match from.ip() {
                std::net::IpAddr::V4(address) => Ok(Some(address)),
                std::net::IpAddr::V6(_) => Ok(None),
            },
            Err(_) => Ok(None),
        }
    }

    /// How many have been passed on since `before` once all that was sent is through.
    fn passed_of(&self, sent: u64, before: (u64, u64)) -> Result<u64> {
        let since = Instant::now();
        loop {
            let counters = self.net.counters()?;
            let count = |what: &str| counters["a>b"][what].as_u64().unwrap_or_default();
            let gone = count("lost") + count("cut") + count("too_long") + count("overflowed");
            let through = count("passed") + gone - count("duplicated");
            if through == count("offered") && count("offered") - before.0 >= sent {
                return Ok(count("passed") - before.1);
            }
            ensure!(since.elapsed() < PATIENCE, "the link has not passed on everything: {counters}");
        }
    }

    fn passed(&self) -> Result<(u64, u64)> {
        Ok((self.offered()?, self.net.counter("a>b", "passed")?))
    }

    fn offered(&self) -> Result<u64> {
        self.net.counter("a>b", "offered")
    }
}

fn len<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}

/// Within five standard deviations of so many percent.
fn near(found: u64, of: u64, percent: u64, what: &str) -> Result<()> {
    let expected = of * percent / 100;
    ensure!(
        found.abs_diff(expected).pow(2) <= 25 * expected,
        "{found} of {of} were {what}, and {percent} % were asked for"
    );
    Ok(())
}
