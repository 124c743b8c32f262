//! `ip()` and `cidr()`: addresses and networks, strictly parsed.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::error::EvalError;
use crate::functions::{Answer, Args, Line};
use crate::value::Value;

/// A network: an address and how many of its bits are the network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

pub(crate) const LINES: &[Line] = &[
    ("ip", "string->ip", |args| parse_ip(&args.text(0)?).map(Value::Ip).map_err(EvalError::new)),
    ("isIP", "string->bool", |args| Ok(Value::Bool(parse_ip(&args.text(0)?).is_ok()))),
    ("ip.isCanonical", "string->bool", |args| {
        let text = args.text(0)?;
        let ip = parse_ip(&text).map_err(EvalError::new)?;
        Ok(Value::Bool(ip.to_string() == *text))
    }),
    ("family", ".ip->int", |args| Ok(Value::Int(if ip(args, 0)?.is_ipv4() { 4 } else { 6 }))),
    ("isUnspecified", ".ip->bool", |args| Ok(Value::Bool(ip(args, 0)?.is_unspecified()))),
    ("isLoopback", ".ip->bool", |args| Ok(Value::Bool(ip(args, 0)?.is_loopback()))),
    ("isLinkLocalMulticast", ".ip->bool", |args| Ok(Value::Bool(link_local_multicast(ip(args, 0)?)))),
    ("isLinkLocalUnicast", ".ip->bool", |args| Ok(Value::Bool(link_local_unicast(ip(args, 0)?)))),
    ("isGlobalUnicast", ".ip->bool", |args| {
        let ip = ip(args, 0)?;
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip);
        Ok(Value::Bool(!broadcast && !special))
    }),
    ("cidr", "string->cidr", |args| parse_cidr(&args.text(0)?).map(Value::Cidr).map_err(EvalError::new)),
    ("isCIDR", "string->bool", |args| Ok(Value::Bool(parse_cidr(&args.text(0)?).is_ok()))),
    ("containsIP", ".cidr,string->bool", |args| {
        let ip = parse_ip(&args.text(1)?).map_err(EvalError::new)?;
        Ok(Value::Bool(cidr(args, 0)?.contains(ip)))
    }),
    ("containsIP", ".cidr,ip->bool", |args| Ok(Value::Bool(cidr(args, 0)?.contains(ip(args, 1)?)))),
    ("containsCIDR", ".cidr,string->bool", |args| {
        let inner = parse_cidr(&args.text(1)?).map_err(EvalError::new)?;
        contains_cidr(args, inner)
    }),
    ("containsCIDR", ".cidr,cidr->bool", |args| {
        let inner = cidr(args, 1)?;
        contains_cidr(args, inner)
    }),
    ("ip", ".cidr->ip", |args| Ok(Value::Ip(cidr(args, 0)?.address))),
    ("prefixLength", ".cidr->int", |args| Ok(Value::Int(i64::from(cidr(args, 0)?.bits)))),
    ("masked", ".cidr->cidr", |args| Ok(Value::Cidr(cidr(args, 0)?.masked()))),
];

fn contains_cidr(args: &mut Args<'_>, inner: Cidr) -> Answer {
    let outer = cidr(args, 0)?;
    Ok(Value::Bool(outer.bits <= inner.bits && outer.contains(inner.masked().address)))
}

fn ip(args: &Args<'_>, at: usize) -> Result<IpAddr, EvalError> {
    match args.value(at)? {
        Value::Ip(ip) => Ok(*ip),
        _ => Err(EvalError::no_overload()),
    }
}

fn cidr(args: &Args<'_>, at: usize) -> Result<Cidr, EvalError> {
    match args.value(at)? {
        Value::Cidr(cidr) => Ok(*cidr),
        _ => Err(EvalError::no_overload()),
    }
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

/// An address without a zone and not an IPv4 one in IPv6's clothes.
fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let ip: IpAddr = text
        .parse()
        .map_err(|_| format!("IP Address {text:?} parse error during conversion from string: unable to parse IP"))?;
    if mapped(ip) {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    Ok(ip)
}

fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn parse_cidr(text: &str) -> Result<Cidr, String> {
    let bad = || format!("network address parse error during conversion from string: netip.ParsePrefix({text:?})");
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| format!("{}: no '/'", bad()))?;
    if address.contains('%') {
        return Err(format!("{}: IPv6 zones cannot be present in a prefix", bad()));
    }
    let address: IpAddr = address.parse().map_err(|_| format!("{}: unable to parse IP", bad()))?;
    let plain =
        !bits.is_empty() && bits.bytes().all(|c| c.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
    let size = if address.is_ipv4() { 32 } else { 128 };
    match bits.parse::<u8>() {
        Ok(_) if mapped(address) => Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed")),
        Ok(bits) if plain && bits <= size => Ok(Cidr { address, bits }),
        _ => Err(format!("{}: prefix length out of range", bad())),
    }
}

impl Cidr {
    fn masked(self) -> Self {
        let keep = |size: u32, bits: u8| size - u32::from(bits);
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(keep(32, self.bits)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(keep(128, self.bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
        };
        Self { address, bits: self.bits }
    }

    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4()
            && Self { address: ip, bits: self.bits }.masked().address == self.masked().address
    }
}
