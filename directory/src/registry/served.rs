//! What is answered, in as little memory as a million names deserve.
//!
//! Names lie one behind the other in one vector, hosts in another; two tables hold where each begins. A fleet's names share few hosts, so a host stands there once, with the number of names that
//! are served at it. A name of ten letters takes about forty bytes.

use std::hash::{BuildHasher as _, RandomState};
use std::io::Write as _;

use at_protocol::directory::Address;

use super::table::{Place, Table};

/// Bytes that follow a name: where its host stands, its port, and whether it is signed.
const TAIL: usize = 7;
/// Bytes before a host: how many names are served at it.
const USES: usize = 4;
/// Rubbish that is not worth the work of clearing it.
const LITTLE: usize = 64 * 1024;

/// More than four gigabytes of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the names take more than 4 GiB")]
pub(super) struct Full;

/// Where a name is served, as it stands in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found<'a> {
    /// The host, an IPv6 address in brackets.
    host: &'a str,
    port: u16,
    /// Whether a signed record says so.
    pub(super) is_signed: bool,
}

impl Found<'_> {
    /// Appends `host:port`.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.host.as_bytes());
        write!(out, ":{}", self.port).expect("a vector takes everything");
    }

    /// The same as a value.
    pub(super) fn address(self) -> Address {
        format!("{}:{}", self.host, self.port).parse().expect("it was an address when it came")
    }
}

/// All names, and where they are served.
#[derive(Debug, Default)]
pub(super) struct Served {
    names: Table,
    hosts: Table,
    /// For each name: its length in one byte, the name, and the tail.
    name_bytes: Vec<u8>,
    /// For each host: its uses, its length in one byte, and the host.
    host_bytes: Vec<u8>,
    /// Bytes of both vectors that nothing leads to any more.
    waste: usize,
    hasher: RandomState,
}

impl Served {
    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Where `name` is served.
    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        let bytes = &self.name_bytes;
        let place = self.names.find(self.hash(name), |place| text_at(bytes, place) == name.as_bytes())?;
        Some(self.found(place))
    }

    /// Serves `name` at `address` from now on.
    pub(super) fn insert(&mut self, name: &str, address: &Address, is_signed: bool) -> Result<(), Full> {
        let host = match address.host() {
            numbers if numbers.contains(':') => &format!("[{numbers}]"),
            host => host,
        };
        let host = self.host(host)?;
        self.insert_at(name, host, address.port(), is_signed)?;
        self.clear_up()
    }

    /// The same for an address as text, as [`Address`] is printed, at a host that is known already; `false`,
    /// and nothing is done, where it is not. Quicker than to read the text again, for a million names.
    pub(super) fn insert_known(&mut self, name: &str, address: &str, is_signed: bool) -> Result<bool, Full> {
        let Some((host, port)) = address.rsplit_once(':') else { return Ok(false) };
        let Ok(port) = port.parse() else { return Ok(false) };
        if self.host_at(host).is_none() || port == 0 {
            return Ok(false);
        }
        let host = self.host(host)?;
        self.insert_at(name, host, port, is_signed)?;
        Ok(true)
    }

    /// Serves `name` no more.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Full> {
        let (hash, bytes) = (self.hash(name), &self.name_bytes);
        let Some(place) = self.names.remove(hash, |place| text_at(bytes, place) == name.as_bytes()) else {
            return Ok(());
        };
        self.waste += 1 + name.len() + TAIL;
        self.leave(place);
        self.clear_up()
    }

    /// Names of strangers cannot be made to collide: the hasher has a key of its own.
    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash will do")]
    fn hash(&self, text: &str) -> u32 {
        self.hasher.hash_one(text.as_bytes()) as u32
    }

    fn found(&self, place: Place) -> Found<'_> {
        let (host, port, is_signed) = tail_at(&self.name_bytes, place);
        let host = text_at(&self.host_bytes, host + USES as Place);
        Found { host: std::str::from_utf8(host).expect("hosts come as text"), port, is_signed }
    }

    fn insert_at(&mut self, name: &str, host: Place, port: u16, is_signed: bool) -> Result<(), Full> {
        let (hash, bytes) = (self.hash(name), &self.name_bytes);
        if let Some(place) = self.names.find(hash, |place| text_at(bytes, place) == name.as_bytes()) {
            self.leave(place);
            let from = place as usize + 1 + name.len();
            self.name_bytes[from..from + TAIL].copy_from_slice(&tail(host, port, is_signed));
            return Ok(());
        }
        let place = push(&mut self.name_bytes, &[], name)?;
        self.name_bytes.extend_from_slice(&tail(host, port, is_signed));
        self.names.insert(hash, place);
        Ok(())
    }

    /// The place of `host`, if it is known.
    fn host_at(&self, host: &str) -> Option<Place> {
        let bytes = &self.host_bytes;
        self.hosts.find(self.hash(host), |place| text_at(bytes, place + USES as Place) == host.as_bytes())
    }

    /// The place of `host`, which is used once more.
    fn host(&mut self, host: &str) -> Result<Place, Full> {
        let place = match self.host_at(host) {
            Some(place) => place,
            None => {
                let place = push(&mut self.host_bytes, &[0; USES], host)?;
                self.hosts.insert(self.hash(host), place);
                self.waste += USES + 1 + host.len();
                place
            }
        };
        let uses = uses_at(&mut self.host_bytes, place);
        if *uses == [0; USES] {
            self.waste -= USES + 1 + host.len();
        }
        // There are fewer names than bytes that can be addressed.
        *uses = (u32::from_le_bytes(*uses) + 1).to_le_bytes();
        Ok(place)
    }

    /// The name at `place` is served at its host no more.
    fn leave(&mut self, place: Place) {
        let (host, ..) = tail_at(&self.name_bytes, place);
        let uses = uses_at(&mut self.host_bytes, host);
        *uses = u32::from_le_bytes(*uses).saturating_sub(1).to_le_bytes();
        if *uses == [0; USES] {
            self.waste += USES + 1 + text_at(&self.host_bytes, host + USES as Place).len();
        }
    }

    /// Writes all anew without the rubbish when it is as much as what is used.
    fn clear_up(&mut self) -> Result<(), Full> {
        if self.waste < LITTLE || self.waste * 2 < self.name_bytes.len() + self.host_bytes.len() {
            return Ok(());
        }
        let mut fresh = Self::default();
        for place in self.names.places() {
            let Found { host, port, is_signed } = self.found(place);
            let name = std::str::from_utf8(text_at(&self.name_bytes, place)).expect("names come as text");
            let host = fresh.host(host)?;
            fresh.insert_at(name, host, port, is_signed)?;
        }
        *self = fresh;
        Ok(())
    }
}

/// Appends `head`, the length of `text` and `text`; gives the place of the head.
fn push(bytes: &mut Vec<u8>, head: &[u8], text: &str) -> Result<Place, Full> {
    let place = Place::try_from(bytes.len()).ok().filter(|place| *place < Place::MAX).ok_or(Full)?;
    let length = u8::try_from(text.len()).expect("names and hosts have at most 255 bytes");
    bytes.extend_from_slice(head);
    bytes.push(length);
    bytes.extend_from_slice(text.as_bytes());
    Ok(place)
}

/// The text whose length stands at `place`.
fn text_at(bytes: &[u8], place: Place) -> &[u8] {
    let from = place as usize + 1;
    &bytes[from..from + usize::from(bytes[place as usize])]
}

fn tail(host: Place, port: u16, is_signed: bool) -> [u8; TAIL] {
    let ([a, b, c, d], [e, f]) = (host.to_le_bytes(), port.to_le_bytes());
    [a, b, c, d, e, f, u8::from(is_signed)]
}

/// Host, port and whether it is signed, of the name at `place`.
fn tail_at(bytes: &[u8], place: Place) -> (Place, u16, bool) {
    let from = place as usize + 1 + usize::from(bytes[place as usize]);
    let tail: [u8; TAIL] = bytes[from..from + TAIL].try_into().expect("a slice of that length");
    let [a, b, c, d, e, f, is_signed] = tail;
    (Place::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), is_signed != 0)
}

fn uses_at(bytes: &mut [u8], place: Place) -> &mut [u8; USES] {
    let from = place as usize;
    (&mut bytes[from..from + USES]).try_into().expect("a slice of that length")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn at(served: &Served, name: &str) -> Option<String> {
        let found = served.find(name)?;
        let mut out = Vec::new();
        found.write(&mut out);
        assert_eq!(found.address(), address(std::str::from_utf8(&out).unwrap()));
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn names_are_found_changed_and_removed() {
        let mut served = Served::default();
        served.insert("alice", &address("a.example:1"), false).unwrap();
        served.insert("bob", &address("[::1]:65535"), true).unwrap();
        assert_eq!(at(&served, "alice").as_deref(), Some("a.example:1"));
        assert_eq!(at(&served, "bob").as_deref(), Some("[::1]:65535"));
        assert!(served.find("bob").unwrap().is_signed && !served.find("alice").unwrap().is_signed);
        served.insert("alice", &address("b.example:2"), true).unwrap();
        assert_eq!(at(&served, "alice").as_deref(), Some("b.example:2"));
        assert_eq!(served.insert_known("carol", "b.example:3", false), Ok(true));
        for other in ["c.example:1", "b.example:0", "b.example", "b.example:65536"] {
            assert_eq!(served.insert_known("dave", other, false), Ok(false), "{other}");
        }
        assert_eq!((at(&served, "carol").as_deref(), at(&served, "dave")), (Some("b.example:3"), None));
        served.remove("carol").unwrap();
        served.remove("bob").unwrap();
        served.remove("carol").unwrap();
        assert_eq!((at(&served, "bob"), served.len()), (None, 1));
    }

    #[test]
    fn the_longest_name_and_host_fit() {
        let mut served = Served::default();
        let (name, host) = ("\u{1f984}".repeat(55), "f:".repeat(126) + "f");
        served.insert(&name, &address(&format!("[{host}]:1")), false).unwrap();
        assert_eq!(at(&served, &name), Some(format!("[{host}]:1")));
    }

    #[test]
    fn it_agrees_with_a_map_through_changes_and_does_not_grow() {
        let mut random = 0x5eed_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (random >> 33) % below
        };
        let (mut served, mut model) = (Served::default(), BTreeMap::new());
        let mut largest = 0;
        for _ in 0..200_000 {
            let name = format!("name{}", next(2_000));
            if next(3) == 0 {
                served.remove(&name).unwrap();
                model.remove(&name);
            } else {
                let address = address(&format!("host{}.example:{}", next(5_000), 1 + next(9)));
                served.insert(&name, &address, false).unwrap();
                model.insert(name, address.to_string());
            }
            largest = largest.max(served.name_bytes.len() + served.host_bytes.len());
        }
        for number in 0..2_000 {
            let name = format!("name{number}");
            assert_eq!(at(&served, &name), model.get(&name).cloned());
        }
        assert_eq!(served.len(), model.len());
        assert!(largest < 4 * LITTLE, "{largest} bytes for two thousand names");
    }
}
