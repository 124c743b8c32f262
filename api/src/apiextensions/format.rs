//! The formats of text that a schema may ask for; the rules are those of kube-openapi's `strfmt` and of 1.36's own.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::Date;

use crate::validate::text::{label_problems, subdomain_problems};

const OF_TEXT: [&str; 26] = [
    "bsonobjectid", "uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac", "uuid", "uuid3", "uuid4", "uuid5", "isbn",
    "isbn10", "isbn13", "creditcard", "ssn", "hexcolor", "rgbcolor", "byte", "password", "date", "duration", "datetime",
    "k8sshortname", "k8slongname",
];

/// The format, where it means something for the type; empty: it is not looked at.
pub fn known<'a>(r#type: &str, format: &'a str) -> &'a str {
    let known = match r#type {
        "" | "string" => OF_TEXT.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known { format } else { "" }
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|letter| letter.to_digit(10)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let clean: Vec<char> = text.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
    let value = |(place, letter): (usize, &char)| match letter {
        'X' if place == 9 => Some(10),
        letter => letter.to_digit(10),
    };
    let values: Option<Vec<u32>> = clean.iter().enumerate().map(value).collect();
    let weighted = |values: Vec<u32>| values.iter().zip(1u32..).map(|(value, place)| value * place).sum::<u32>();
    clean.len() == 10 && values.is_some_and(|values| weighted(values) % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let clean: String = text.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
    let digits = digits(&clean);
    let sum: u32 = digits.iter().enumerate().map(|(place, digit)| digit * if place % 2 == 0 { 1 } else { 3 }).sum();
    clean.len() == 13 && digits.len() == 13 && sum % 10 == 0
}

fn is_credit_card(text: &str) -> bool {
    let digits = digits(text);
    let luhn: u32 = digits.iter().rev().enumerate().map(|(place, digit)| match (place % 2, digit * 2) {
        (0, _) => *digit,
        (_, doubled) => doubled / 10 + doubled % 10,
    }).sum();
    (13..=19).contains(&digits.len()) && luhn % 10 == 0
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    // Dashes may be left out, but only at their places.
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let mut places = vec![0];
    for length in &lengths {
        places.push(places.last().copied().unwrap_or_default() + length);
    }
    let inner = &places[1..places.len() - 1];
    let hex: Vec<char> = text.chars().filter(|letter| *letter != '-').collect();
    hex.len() == 32
        && hex.iter().all(char::is_ascii_hexdigit)
        && inner.iter().all(|place| matches!(place, 8 | 12 | 16 | 20))
        && version.is_none_or(|version| hex[12] == version && (version == '3' || "89abAB".contains(hex[16])))
}

fn is_hostname(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.chars().count() <= 63
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(|letter| letter == '-' || letter.is_alphanumeric())
    };
    text.chars().count() <= 255 && text.split('.').all(part)
}

fn is_email(text: &str) -> bool {
    let address = match (text.rfind('<'), text.ends_with('>')) {
        (Some(start), true) => &text[start + 1..text.len() - 1],
        _ => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |letter: char| !letter.is_control() && !"()<>[]:;@\\,\" ".contains(letter);
    let dotted = |text: &str| !text.is_empty() && text.split('.').all(|part| !part.is_empty() && part.chars().all(atom));
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || dotted(local)) && (dotted(domain) || (domain.starts_with('[') && domain.ends_with(']')))
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let bits_up_to = |max: u8| !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse().is_ok_and(|bits: u8| bits <= max);
    (address.parse::<Ipv4Addr>().is_ok() && bits_up_to(32)) || (address.parse::<Ipv6Addr>().is_ok() && bits_up_to(128))
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, width: usize, counts: [usize; 3]| {
        let parts: Vec<&str> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == width && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    groups(':', 2, [6, 8, 20]) || groups('-', 2, [6, 8, 20]) || groups('.', 4, [3, 4, 10])
}

fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(|letter| letter.is_control() || letter == ' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|letter: char| letter.is_ascii_alphabetic())
        && scheme.chars().all(|letter| letter.is_ascii_alphanumeric() || "+-.".contains(letter))
}

fn is_color(text: &str) -> bool {
    let hex = text.strip_prefix('#').unwrap_or(text);
    matches!(hex.len(), 3 | 6) && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let parts: Vec<&str> = inner.unwrap_or_default().split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
}

fn is_ssn(text: &str) -> bool {
    let plain: String = text.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
    let dashes = text.len() - plain.len();
    plain.len() == 9 && plain.bytes().all(|byte| byte.is_ascii_digit()) && dashes <= 2
}

/// `1h2.5m`, `-3ms`, `0`.
fn is_go_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut units = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let unit = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"].into_iter().find(|unit| after.starts_with(unit));
        let (Some(unit), true) = (unit, number.parse::<f64>().is_ok()) else { return false };
        rest = &after[unit.len()..];
        units += 1;
    }
    units > 0
}

/// Go's durations (`1h2m`), and Scala's (`22 ns`, `3 days`).
fn is_duration(text: &str) -> bool {
    if is_go_duration(text) {
        return true;
    }
    const UNITS: [&str; 24] = [
        "ns", "nano", "nanos", "nanosecond", "nanoseconds", "us", "µs", "micro", "micros", "ms", "milli", "millis", "s",
        "sec", "secs", "second", "seconds", "m", "min", "minute", "minutes", "h", "hr", "hour",
    ];
    const LONG: [&str; 9] = ["hours", "d", "day", "days", "w", "wk", "week", "weeks", "microseconds"];
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_lowercase();
    !number.is_empty() && (UNITS.contains(&unit.as_str()) || LONG.contains(&unit.as_str()))
}

fn is_date_time(text: &str) -> bool {
    text.contains(['T', 't']) && text.to_uppercase().parse::<Timestamp>().is_ok()
}

/// Whether text has a format that is [`known`].
pub fn fits(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        "hexcolor" => is_color(text),
        "rgbcolor" => is_rgb(text),
        "byte" => STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<Date>().is_ok(),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => label_problems(text).is_empty(),
        "k8slongname" => subdomain_problems(text).is_empty(),
        _ => true,
    }
}
