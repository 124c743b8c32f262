//! DNS messages as bytes: questions in, answers out (RFC 1035, 2782, 6891). Pure.
//!
//! Whatever comes in is only looked at within its bounds, and a name follows at most [`MOST_JUMPS`] pointers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Types of records.
pub mod kind {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of a zone.
    pub const SOA: u16 = 6;
    /// Name of an address.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Host and port of a service.
    pub const SRV: u16 = 33;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// All types, in a question.
    pub const ANY: u16 = 255;
}

/// Result codes.
pub mod code {
    /// It is as it says.
    pub const OK: u8 = 0;
    /// The question cannot be read.
    pub const FORMAT: u8 = 1;
    /// No answer could be had.
    pub const FAILED: u8 = 2;
    /// There is no such name.
    pub const NO_NAME: u8 = 3;
    /// Not something that is done here.
    pub const NOT_IMPLEMENTED: u8 = 4;
    /// Not something that is answered here.
    pub const REFUSED: u8 = 5;
    /// EDNS of a version that is not known here.
    pub const BAD_VERSION: u16 = 16;
}

/// The class of everything here.
pub const IN: u16 = 1;
/// What a client without EDNS takes by UDP, bytes.
pub const PLAIN_LIMIT: usize = 512;
/// What is sent by UDP at most, bytes: fits every usual link unfragmented.
pub const UDP_LIMIT: usize = 1232;
const HEADER: usize = 12;
const MOST_JUMPS: usize = 32;
const MOST_BYTES: usize = 255;

/// A name: labels from the left, lower case. Its root is no label.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<Vec<u8>>);

impl Name {
    /// From dotted text. `None` for labels that are empty or longer than 63, or for more than 255 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(Self::default());
        }
        let labels: Vec<Vec<u8>> = text.split('.').map(|label| label.to_ascii_lowercase().into_bytes()).collect();
        let fits = labels.iter().all(|label| (1..=63).contains(&label.len()));
        let bytes: usize = labels.iter().map(|label| label.len() + 1).sum::<usize>() + 1;
        (fits && bytes <= MOST_BYTES).then_some(Self(labels))
    }

    /// Its labels as text, from the left. `None` where one is no ASCII.
    pub fn labels(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|label| std::str::from_utf8(label).ok().filter(|label| label.is_ascii())).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|label| write!(f, "{}.", String::from_utf8_lossy(label)))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Its number.
    pub id: u16,
    /// What is asked: 0 is a plain question.
    pub opcode: u8,
    /// Whether the client wants names of others looked up.
    pub recursion: bool,
    /// About which name.
    pub name: Name,
    /// Which type.
    pub kind: u16,
    /// Which class.
    pub class: u16,
    /// EDNS: the most bytes by UDP, and the version.
    pub edns: Option<(u16, u8)>,
    /// The question's bytes, as the client spelt it: answers repeat that.
    question: Vec<u8>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// Another name of a type of those that hold one name: CNAME, PTR, NS.
    Name(u16, Name),
    /// Priority, weight, port, host.
    Srv(u16, u16, u16, Name),
    /// One text of at most 255 bytes.
    Txt(String),
    /// Main server, who looks after it, serial, refresh, retry, expire, minimum.
    Soa(Name, Name, [u32; 5]),
    /// Of any type, as it came.
    Raw(u16, Vec<u8>),
}

impl Data {
    /// Its type.
    pub fn kind(&self) -> u16 {
        match self {
            Self::A(_) => kind::A,
            Self::Aaaa(_) => kind::AAAA,
            Self::Name(kind, _) | Self::Raw(kind, _) => *kind,
            Self::Srv(..) => kind::SRV,
            Self::Txt(_) => kind::TXT,
            Self::Soa(..) => kind::SOA,
        }
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Of what.
    pub name: Name,
    /// Seconds that it may be remembered.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Result code.
    pub code: u8,
    /// Whether it comes from who knows.
    pub authoritative: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// Whose zone it is, where there is no answer.
    pub authority: Vec<Record>,
    /// What will be asked next.
    pub additional: Vec<Record>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

/// Reads a name and says where it ends.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(Name, usize)> {
    let (mut labels, mut end, mut size) = (Vec::new(), None, 1);
    for _ in 0..MOST_JUMPS + 128 {
        let length = usize::from(*bytes.get(at)?);
        match length {
            0 => return Some((Name(labels), end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + length)?;
                size += length + 1;
                if size > MOST_BYTES {
                    return None;
                }
                labels.push(label.to_ascii_lowercase());
                at += 1 + length;
            }
            192.. => {
                end.get_or_insert(at + 2);
                let target = usize::from(u16_at(bytes, at)? & 0x3fff);
                // Only backwards, so that it comes to an end.
                if target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
    None
}

/// The number and code to refuse an unreadable message with; `None` where not even that can be read, or where it is
/// an answer itself.
pub type Refused = Option<(u16, u8)>;

/// Reads a question.
///
/// # Errors
/// For what is no question, or not one question.
pub fn read_query(bytes: &[u8]) -> Result<Query, Refused> {
    let id = u16_at(bytes, 0).ok_or(None)?;
    let flags = u16_at(bytes, 2).ok_or(None)?;
    if flags & 0x8000 != 0 {
        return Err(None);
    }
    let opcode = (flags >> 11 & 0xf) as u8;
    if opcode != 0 {
        return Err(Some((id, code::NOT_IMPLEMENTED)));
    }
    parse_query(bytes, id, flags).ok_or(Some((id, code::FORMAT)))
}

fn parse_query(bytes: &[u8], id: u16, flags: u16) -> Option<Query> {
    if u16_at(bytes, 4)? != 1 {
        return None;
    }
    let (name, end) = read_name(bytes, HEADER)?;
    let (kind, class) = (u16_at(bytes, end)?, u16_at(bytes, end + 2)?);
    let question = bytes.get(HEADER..end + 4)?.to_vec();
    // A pointer in the only question leads into the header; nobody sends that.
    if question.len() != name.0.iter().map(|label| label.len() + 1).sum::<usize>() + 5 {
        return None;
    }
    let others = usize::from(u16_at(bytes, 6)?) + usize::from(u16_at(bytes, 8)?) + usize::from(u16_at(bytes, 10)?);
    let (mut edns, mut at) = (None, end + 4);
    for _ in 0..others.min(64) {
        let record = read_record(bytes, at)?;
        if record.kind == kind::OPT {
            let version = (record.ttl >> 16 & 0xff) as u8;
            edns = Some((record.class, version));
        }
        at = record.end;
    }
    Some(Query { id, opcode: 0, recursion: flags & 0x100 != 0, name, kind, class, edns, question })
}

struct RawRecord {
    name: Name,
    kind: u16,
    class: u16,
    ttl: u32,
    /// Where its data is.
    data: std::ops::Range<usize>,
    end: usize,
}

fn read_record(bytes: &[u8], at: usize) -> Option<RawRecord> {
    let (name, at) = read_name(bytes, at)?;
    let ttl = bytes.get(at + 4..)?.first_chunk().map(|four| u32::from_be_bytes(*four))?;
    let length = usize::from(u16_at(bytes, at + 8)?);
    let data = at + 10..at + 10 + length;
    bytes.get(data.clone())?;
    Some(RawRecord { name, kind: u16_at(bytes, at)?, class: u16_at(bytes, at + 2)?, ttl, end: data.end, data })
}

/// The code and the answers of a message that somebody else sent; types whose data may hold names other than the known
/// ones are left out. `None` for what cannot be read.
pub fn read_answers(bytes: &[u8]) -> Option<(u8, Vec<Record>)> {
    let flags = u16_at(bytes, 2)?;
    if flags & 0x8000 == 0 || u16_at(bytes, 4)? > 1 {
        return None;
    }
    let mut at = HEADER;
    if u16_at(bytes, 4)? == 1 {
        at = read_name(bytes, at)?.1 + 4;
    }
    let mut answers = Vec::new();
    for _ in 0..u16_at(bytes, 6)?.min(1024) {
        let record = read_record(bytes, at)?;
        at = record.end;
        let data = match record.kind {
            kind::CNAME | kind::PTR | kind::NS => Some(Data::Name(record.kind, read_name(bytes, record.data.start)?.0)),
            kind::A | kind::AAAA | kind::TXT => Some(Data::Raw(record.kind, bytes.get(record.data.clone())?.to_vec())),
            _ => None,
        };
        if let Some(data) = data.filter(|_| record.class == IN) {
            answers.push(Record { name: record.name, ttl: record.ttl, data });
        }
    }
    Some(((flags & 0xf) as u8, answers))
}

/// A question to somebody else.
pub fn write_query(id: u16, name: &Name, kind: u16) -> Vec<u8> {
    let mut writer = Writer::new(id, 0x100);
    writer.name(name);
    writer.bytes.extend([kind.to_be_bytes(), IN.to_be_bytes()].concat());
    writer.count(4, 1);
    writer.bytes
}

/// Whether a message answers a question: number and question, letter by letter but for case.
pub fn answers_to(message: &[u8], id: u16, query: &Query) -> bool {
    let question = message.get(HEADER..HEADER + query.question.len());
    u16_at(message, 0) == Some(id)
        && u16_at(message, 2).is_some_and(|flags| flags & 0x8000 != 0)
        && question.is_some_and(|question| question.eq_ignore_ascii_case(&query.question))
}

/// The number in a message's head replaced.
pub fn with_id(mut message: Vec<u8>, id: u16) -> Vec<u8> {
    if let Some(head) = message.first_chunk_mut::<2>() {
        *head = id.to_be_bytes();
    }
    message
}

/// An answer without question, for what could not be read.
pub fn refusal((id, code): (u16, u8)) -> Vec<u8> {
    Writer::new(id, 0x8000 | u16::from(code)).bytes
}

/// What this client takes by UDP, bytes.
pub fn udp_limit(query: &Query) -> usize {
    query.edns.map_or(PLAIN_LIMIT, |(size, _)| usize::from(size).clamp(PLAIN_LIMIT, UDP_LIMIT))
}

/// Writes an answer of at most `limit` bytes: records that do not fit are left out, and the message says so.
pub fn write_reply(query: &Query, reply: &Reply, limit: usize) -> Vec<u8> {
    let bad_version = query.edns.is_some_and(|(_, version)| version != 0);
    let empty = Reply::default();
    let (reply, extended) = if bad_version { (&empty, code::BAD_VERSION) } else { (reply, u16::from(reply.code)) };
    let mut flags = 0x8080 | u16::from(query.recursion) << 8 | (extended & 0xf);
    if reply.authoritative {
        flags |= 0x400;
    }
    let mut writer = Writer::new(query.id, flags);
    writer.remember(&query.name, HEADER);
    writer.bytes.extend(&query.question);
    writer.count(4, 1);
    let room = limit - if query.edns.is_some() { 11 } else { 0 };
    let sections = [(6, &reply.answers, true), (8, &reply.authority, true), (10, &reply.additional, false)];
    let mut additional = 0;
    for (at, records, needed) in sections {
        let mut written = 0;
        for record in records.iter().take(4096) {
            let before = writer.bytes.len();
            writer.record(record);
            if writer.bytes.len() > room {
                writer.bytes.truncate(before);
                writer.seen.retain(|_, offset| usize::from(*offset) < before);
                if needed {
                    writer.flag(0x200);
                }
                break;
            }
            written += 1;
        }
        writer.count(at, written);
        additional = written;
    }
    if query.edns.is_some() {
        let high = (extended >> 4) as u8;
        writer.bytes.extend([0]);
        writer.bytes.extend([kind::OPT.to_be_bytes(), (UDP_LIMIT as u16).to_be_bytes()].concat());
        writer.bytes.extend([high, 0, 0, 0, 0, 0]);
        writer.count(10, additional + 1);
    }
    writer.bytes
}

struct Writer {
    bytes: Vec<u8>,
    /// Where a name, or the end of one, was written before.
    seen: BTreeMap<Vec<Vec<u8>>, u16>,
}

impl Writer {
    fn new(id: u16, flags: u16) -> Self {
        let mut bytes = [id.to_be_bytes(), flags.to_be_bytes()].concat();
        bytes.resize(HEADER, 0);
        Self { bytes, seen: BTreeMap::new() }
    }

    fn put(&mut self, at: usize, value: u16) {
        if let Some(two) = self.bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
            *two = value.to_be_bytes();
        }
    }

    fn count(&mut self, at: usize, count: u16) {
        self.put(at, count);
    }

    fn flag(&mut self, bit: u16) {
        let flags = u16_at(&self.bytes, 2).unwrap_or_default();
        self.put(2, flags | bit);
    }

    /// Notes that `name` stands at `at`, whole.
    fn remember(&mut self, name: &Name, mut at: usize) {
        for (index, label) in name.0.iter().enumerate() {
            if let Ok(offset) = u16::try_from(at)
                && offset < 0x4000
            {
                self.seen.entry(name.0[index..].to_vec()).or_insert(offset);
            }
            at += label.len() + 1;
        }
    }

    fn name(&mut self, name: &Name) {
        for index in 0..name.0.len() {
            let rest = &name.0[index..];
            if let Some(offset) = self.seen.get(rest) {
                let pointer = 0xc000 | offset;
                self.bytes.extend(pointer.to_be_bytes());
                return;
            }
            if let Ok(offset) = u16::try_from(self.bytes.len())
                && offset < 0x4000
            {
                self.seen.insert(rest.to_vec(), offset);
            }
            let label = &name.0[index];
            self.bytes.push(label.len() as u8);
            self.bytes.extend(label);
        }
        self.bytes.push(0);
    }

    /// Of names that later standards put into data the client must not find shortened ones (RFC 2782).
    fn whole_name(&mut self, name: &Name) {
        for label in &name.0 {
            self.bytes.push(label.len() as u8);
            self.bytes.extend(label);
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.bytes.extend([record.data.kind().to_be_bytes(), IN.to_be_bytes()].concat());
        self.bytes.extend(record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend([0, 0]);
        match &record.data {
            Data::A(ip) => self.bytes.extend(ip.octets()),
            Data::Aaaa(ip) => self.bytes.extend(ip.octets()),
            Data::Name(_, name) => self.name(name),
            Data::Srv(priority, weight, port, host) => {
                self.bytes.extend([priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat());
                self.whole_name(host);
            }
            Data::Txt(text) => {
                let text: Vec<u8> = text.bytes().take(255).collect();
                self.bytes.push(text.len() as u8);
                self.bytes.extend(text);
            }
            Data::Soa(server, person, numbers) => {
                self.name(server);
                self.name(person);
                self.bytes.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
            }
            Data::Raw(_, bytes) => self.bytes.extend(bytes),
        }
        let length = self.bytes.len() - length_at - 2;
        self.put(length_at, u16::try_from(length).unwrap_or(u16::MAX));
    }
}
