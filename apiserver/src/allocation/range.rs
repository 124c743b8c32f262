//! The ranges that Services' addresses and node ports are taken from, and in which order they are tried. Pure.
//!
//! As Kubernetes does it (KEP-3070, KEP-3668) the lower end of a range is left to those who ask for a value: what is
//! allocated without being asked for comes from the upper band while that has something free.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range of numbers, both ends included, with the first number of its upper band.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Band {
    first: u32,
    last: u32,
    upper: u32,
}

impl Band {
    fn new(first: u32, last: u32, reserved: u32) -> Option<Self> {
        (first <= last).then(|| Self { first, last, upper: first.saturating_add(reserved).min(last) })
    }

    /// Whether the number lies in it.
    pub fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Every number once: the upper band from a place that `seed` chooses, around its end, then the lower one likewise.
    pub fn candidates(&self, seed: u32) -> impl Iterator<Item = u32> + use<> {
        let around = move |from: u32, to: u32| {
            let size = u64::from(to.saturating_sub(from));
            let start = if size == 0 { 0 } else { u64::from(seed) % size };
            (0..size).map(move |step| from + u32::try_from((start + step) % size).unwrap_or_default())
        };
        around(self.upper, self.last.saturating_add(1)).chain(around(self.first, self.upper))
    }
}

/// How many numbers at the lower end are left to those who ask: between `min` and `max`, else a `step`th of the size.
fn reserved(size: u32, min: u32, max: u32, step: u32) -> u32 {
    if size <= min { 0 } else { (size / step).clamp(min, max) }
}

/// An IPv4 network for Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// As it was written.
    pub text: String,
    base: u32,
    bits: u32,
    band: Band,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse_masked(text).ok_or_else(|| format!("{text:?} is no IPv4 network with room for addresses"))
    }
}

impl Default for Network {
    /// `10.96.0.0/16`
    fn default() -> Self {
        let base = u32::from(Ipv4Addr::new(10, 96, 0, 0));
        Self { text: "10.96.0.0/16".to_owned(), base, bits: 16, band: Band { first: base + 1, last: base + 0xfffe, upper: base + 257 } }
    }
}

impl Network {
    /// From `10.96.0.0/16`. `None`: no IPv4 network, one with something behind its prefix, or without room for an address.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits) = (u32::from(base.parse::<Ipv4Addr>().ok()?), bits.parse::<u32>().ok().filter(|bits| *bits <= 30)?);
        let size = u32::MAX.checked_shr(bits).unwrap_or(0);
        if base & size != 0 {
            return None;
        }
        // Neither the network's own address nor the one for all.
        let band = Band::new(base + 1, base + size - 1, reserved(size.saturating_add(1), 16, 256, 16))?;
        Some(Self { text: text.to_owned(), base, bits, band })
    }

    /// As [`Self::parse`], but what is behind the prefix is ignored, as Kubernetes does with flags: `172.20.1.0/12` is
    /// `172.16.0.0/12`.
    pub fn parse_masked(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits) = (u32::from(base.parse::<Ipv4Addr>().ok()?), bits.parse::<u32>().ok().filter(|bits| *bits <= 30)?);
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        Self::parse(&format!("{}/{bits}", Ipv4Addr::from(base & mask)))
    }

    /// Whether the address belongs to the network, usable or not.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
        u32::from(address) & mask == self.base
    }

    /// Whether a Service can have the address.
    pub fn is_usable(&self, address: Ipv4Addr) -> bool {
        self.band.contains(address.into())
    }

    /// Its first usable address: where `kubernetes.default` is.
    pub fn first(&self) -> Ipv4Addr {
        self.band.first.into()
    }

    /// Every usable address, in the order in which they are tried.
    pub fn candidates(&self, seed: u32) -> impl Iterator<Item = Ipv4Addr> + use<> {
        self.band.candidates(seed).map(Ipv4Addr::from)
    }
}

/// The ports of nodes that Services may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 30000, last: 32767 }
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of ports such as 30000-32767");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let (first, last) = (first.trim().parse().map_err(|_| wrong())?, last.trim().parse().map_err(|_| wrong())?);
        if first == 0 || first > last { Err(wrong()) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl PortRange {
    /// Whether the port lies in it.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Every port, in the order in which they are tried.
    pub fn candidates(&self, seed: u32) -> impl Iterator<Item = u16> + use<> {
        let size = u32::from(self.last - self.first) + 1;
        let band = Band::new(self.first.into(), self.last.into(), reserved(size, 16, 128, 32));
        band.into_iter().flat_map(move |band| band.candidates(seed)).filter_map(|port| u16::try_from(port).ok())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn networks_leave_their_ends_out() {
        let network = Network::parse("10.96.0.0/16").unwrap();
        assert_eq!(network.first(), Ipv4Addr::new(10, 96, 0, 1));
        assert!(network.contains(Ipv4Addr::new(10, 96, 255, 255)) && !network.is_usable(Ipv4Addr::new(10, 96, 255, 255)));
        assert!(!network.is_usable(Ipv4Addr::new(10, 96, 0, 0)) && !network.contains(Ipv4Addr::new(10, 97, 0, 1)));
        for seed in [0, 7, u32::MAX] {
            let first = network.candidates(seed).next().unwrap();
            assert!(u32::from(first) > u32::from(Ipv4Addr::new(10, 96, 1, 0)), "{first} is of the upper band");
        }
        let small = Network::parse("192.168.1.8/29").unwrap();
        let all: Vec<Ipv4Addr> = small.candidates(9).collect();
        assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (6, 6));
        for text in ["", "10.0.0.0", "10.0.0.0/31", "fe80::/64", "10.0.0.0/x", "10.0.0.1/24"] {
            assert!(Network::parse(text).is_none(), "{text}");
        }
        assert!(Network::parse("0.0.0.0/0").is_some());
    }

    #[test]
    fn ports_come_from_the_upper_band_first() {
        let range = PortRange::default();
        let all: Vec<u16> = range.candidates(12345).collect();
        assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (2768, 2768));
        assert!(all[..2682].iter().all(|port| *port >= 30086) && all[2682..].iter().all(|port| *port < 30086));
        assert_eq!("31000-31001".parse::<PortRange>().unwrap().candidates(0).collect::<Vec<_>>(), [31000, 31001]);
        assert_eq!(range.to_string(), "30000-32767");
        assert!("5-4".parse::<PortRange>().is_err() && "x".parse::<PortRange>().is_err());
    }
}
