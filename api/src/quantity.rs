//! Kubernetes quantities: `100m`, `1.5Gi`, `2e3`: parsing, the one canonical text, arithmetic, comparison.
//!
//! Held as nano-units in an `i128`, so nothing is lost between 1n and 2^63; finer than nano is rounded up, larger than
//! 2^63-1 is cut off there, as in Kubernetes.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// Which family of suffixes a quantity is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `n u m k M G T P E`
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`
    BinarySi,
    /// `1e3`
    DecimalExponent,
}

/// An amount of a resource.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number is fine, the suffix is none.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// So many whole units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    /// So many thousandths.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * 1_000_000, format: Format::DecimalSi }
    }

    /// Whole units, rounded up (towards larger magnitude), as the scheduler counts memory.
    pub fn units(&self) -> i64 {
        clamp(ceil_div(self.nanos, NANO))
    }

    /// Thousandths, rounded up, as the scheduler counts CPU.
    pub fn millis(&self) -> i64 {
        clamp(ceil_div(self.nanos, 1_000_000))
    }

    /// Billionths.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// The family of suffixes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Exactly zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// The sum; the left side's format, unless it is zero.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: bounded(self.nanos.saturating_add(other.nanos)), format }
    }

    /// The difference; the left side's format, unless it is zero.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: bounded(self.nanos.saturating_sub(other.nanos)), format }
    }

    /// So many times as much.
    #[must_use]
    pub fn times(&self, factor: i64) -> Self {
        Self { nanos: bounded(self.nanos.saturating_mul(i128::from(factor))), format: self.format }
    }

    /// As a float, for ratios.
    #[expect(clippy::cast_precision_loss, reason = "ratios are printed with six digits")]
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// From text; zero where it is none. For values that were checked before.
    pub fn lenient(text: &str) -> Self {
        text.parse().unwrap_or(Self::ZERO)
    }
}

fn bounded(nanos: i128) -> i128 {
    nanos.clamp(-MAX, MAX)
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// Rounds away from zero.
fn ceil_div(value: i128, by: i128) -> i128 {
    let whole = value / by;
    match (value % by).cmp(&0) {
        Ordering::Greater => whole + 1,
        Ordering::Less => whole - 1,
        Ordering::Equal => whole,
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// (format, base, exponent): the factor is `base^exponent`.
fn suffix(text: &str) -> Option<(Format, i128, i32)> {
    let decimal = |exponent| Some((Format::DecimalSi, 10, exponent));
    let binary = |exponent| Some((Format::BinarySi, 2, exponent));
    match text {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Some((Format::DecimalExponent, 10, exponent.parse().ok()?))
        }
    }
}

/// `digits * 10^-scale * factor` in nanos, rounded away from zero and cut off at the maximum.
fn to_nanos(digits: &str, fraction: usize, base: i128, exponent: i32) -> i128 {
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let (power, twos) = if base == 10 { (exponent, 0) } else { (0, exponent) };
    // The number is `digits * 10^ten * 2^twos` nanos.
    let ten = i64::from(power) + 9 - i64::try_from(fraction).unwrap_or(i64::MAX);
    let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
    if length.saturating_add(ten) > 31 {
        return MAX;
    }
    if length.saturating_add(ten) < -19 {
        return 1;
    }
    // Digits beyond the thirty-sixth cannot matter but for rounding up.
    let (kept, cut) = digits.split_at(digits.len().min(36));
    let mut rest = cut.bytes().any(|b| b != b'0');
    let mut ten = ten + i64::try_from(cut.len()).unwrap_or(0);
    let mut value: i128 = kept.parse().unwrap_or(MAX);
    // Shrink first so that the multiplication below cannot overflow for what fits at the end.
    let mut twos = twos;
    while twos > 0 && ten < 0 && value % 10 != 0 {
        match value.checked_mul(2) {
            Some(doubled) => value = doubled,
            None => break,
        }
        twos -= 1;
    }
    while ten < 0 {
        rest |= value % 10 != 0;
        value /= 10;
        ten += 1;
    }
    while ten > 0 {
        value = match value.checked_mul(10) {
            Some(value) => value,
            None => return MAX,
        };
        ten -= 1;
    }
    while twos > 0 {
        value = match value.checked_mul(2) {
            Some(value) => value,
            None => return MAX,
        };
        twos -= 1;
    }
    if rest {
        value += 1;
    }
    value.min(MAX)
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, rest) = unsigned.split_at(end);
        if number.is_empty() || number.matches('.').count() > 1 || number == "." {
            return Err(ParseError::Format);
        }
        let known = |c: char| "eEinumkKMGTP+-0123456789".contains(c);
        if !rest.chars().all(known) {
            return Err(ParseError::Format);
        }
        let (format, base, exponent) = suffix(rest).ok_or(ParseError::Suffix)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        let nanos = to_nanos(&digits, fraction.len(), base, exponent);
        let nanos = if text.starts_with('-') { -nanos } else { nanos };
        Ok(Self { nanos, format })
    }
}

const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let binary = self.format == Format::BinarySi && self.nanos % NANO == 0 && self.nanos.abs() >= 1024 * NANO;
        if binary {
            let mut value = self.nanos / NANO;
            let mut index = 0;
            while value % 1024 == 0 && index + 1 < BINARY.len() {
                value /= 1024;
                index += 1;
            }
            return write!(f, "{value}{}", BINARY[index]);
        }
        let mut value = self.nanos;
        let mut index = 0;
        while value % 1000 == 0 && index + 1 < DECIMAL.len() {
            value /= 1000;
            index += 1;
        }
        if self.format == Format::DecimalExponent {
            let exponent = i32::try_from(index).unwrap_or(0) * 3 - 9;
            return if exponent == 0 { write!(f, "{value}") } else { write!(f, "{value}e{exponent}") };
        }
        write!(f, "{value}{}", DECIMAL[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_text() {
        for (input, output) in [
            ("0", "0"), ("1000m", "1"), ("1024Mi", "1Gi"), ("0.5", "500m"), ("1.5Gi", "1536Mi"), ("100m", "100m"),
            ("1e3", "1e3"), ("1E3", "1e3"), ("12e6", "12e6"), ("1000", "1k"), ("1024", "1024"), ("1Ki", "1Ki"), ("0.1n", "1n"), ("-1.5", "-1500m"),
            ("0.5Ki", "512"), ("1000Ki", "1000Ki"), ("+5", "5"), ("10.", "10"), (".5", "500m"), ("1500M", "1500M"), ("0.001Ki", "1024m"),
            ("9223372036854775807", "9223372036854775807"), ("99999999999999999999E", "9223372036854775807"), ("1u", "1u"), ("00012", "12"),
        ] {
            let parsed: Quantity = input.parse().unwrap_or_else(|error| panic!("{input}: {error}"));
            assert_eq!(parsed.to_string(), output, "{input}");
        }
    }

    #[test]
    fn refuses() {
        for (input, error) in [
            ("", ParseError::Format), ("abc", ParseError::Format), ("1x", ParseError::Format), ("1 Gi", ParseError::Format),
            ("1.2.3", ParseError::Format), ("1ki", ParseError::Suffix), ("1Mm", ParseError::Suffix), ("1e", ParseError::Suffix), ("1GiB", ParseError::Format),
        ] {
            assert_eq!(input.parse::<Quantity>().map(|q| q.to_string()), Err(error), "{input}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_is_stable(text in "[+-]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,4}") {
            if let Ok(parsed) = text.parse::<Quantity>() {
                let again: Quantity = parsed.to_string().parse().expect("own text");
                prop_assert_eq!(again, parsed);
                prop_assert_eq!(again.to_string(), parsed.to_string());
            }
        }
        #[test]
        fn adds_as_numbers(a in -1_000_000_000i64..1_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
            let sum = Quantity::from_millis(a).plus(&Quantity::from_millis(b));
            prop_assert_eq!(sum.millis(), a + b);
            prop_assert_eq!(sum.minus(&Quantity::from_millis(b)).millis(), a);
        }
    }
}
